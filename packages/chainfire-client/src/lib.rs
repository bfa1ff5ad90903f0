//! Client of Chainfire: failover, CAS, watches that resume, lease keep-alive, election.
