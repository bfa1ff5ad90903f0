//! The pure probe, do, verify engine of first boot, with its durable ledger.
