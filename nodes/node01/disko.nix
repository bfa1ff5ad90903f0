# node01's disk: the one that ../cluster.nix matches, with a boot partition and one root.
import ../disk.nix "node01"
