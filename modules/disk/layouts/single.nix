# One disk: what boots, and the root.
{
  disk,
  members,
  root,
  ...
}:
{
  devices.disk.main = disk (builtins.head members) "/boot" root;
}
