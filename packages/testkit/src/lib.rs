//! Real processes on free ports, clusters, faults, a history recorder and a linearizability checker.
