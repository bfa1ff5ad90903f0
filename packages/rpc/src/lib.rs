//! gRPC and HTTPS servers and channels with mTLS, caller identity, health and graceful stop.
