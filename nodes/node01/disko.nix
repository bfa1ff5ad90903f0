# node01's disk: found by serial or WWN and divided as ../cluster.nix says. What only this machine needs goes here,
# in disko's own words.
{
  plasma.disk.enable = true;
}
