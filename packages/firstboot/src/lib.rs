//! The agent that turns a booted machine into a member of the cluster.
