//! The cluster as an operator describes it: nodes, roles, addresses, disks. Pure: no I/O.
