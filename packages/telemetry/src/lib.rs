//! Logs, metrics and the ops listener of every service.
