//! All protobuf files and their generated code.
//!
//! `proto/` is written by hand, `src/gen/` by `cargo xtask gen`; both are checked in, so that
//! nobody needs a protobuf compiler to build. Every `bytes` field is a [`bytes::Bytes`] that
//! shares the buffer of the message it came in.
//!
//! Absent on purpose: any logic. Wire names and numbers of the etcd packages are etcd's.

/// The tree of modules follows the packages, since generated code refers across by `super`.
#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
mod packages {
    pub mod etcdserverpb {
        include!("gen/etcdserverpb.rs");
    }
    pub mod mvccpb {
        include!("gen/mvccpb.rs");
    }
    pub mod authpb {
        include!("gen/authpb.rs");
    }
    pub mod v3lockpb {
        include!("gen/v3lockpb.rs");
    }
    pub mod v3electionpb {
        include!("gen/v3electionpb.rs");
    }
    pub mod chainfire {
        pub mod v1 {
            include!("gen/chainfire.v1.rs");
        }
        pub mod internal {
            pub mod v1 {
                include!("gen/chainfire.internal.v1.rs");
            }
        }
    }
    pub mod plasma {
        pub mod raft {
            pub mod v1 {
                include!("gen/plasma.raft.v1.rs");
            }
        }
    }
}

/// `chainfire.v1`: what etcd's API lacks.
pub use packages::chainfire::v1 as chainfire;

/// `chainfire.internal.v1`: what goes through Chainfire's log.
pub use packages::chainfire::internal::v1 as chainfire_internal;

/// `plasma.raft.v1`: between members of a Raft group, and its entries on disk.
pub use packages::plasma::raft::v1 as raft;

pub use packages::{authpb, etcdserverpb, mvccpb, v3electionpb, v3lockpb};

/// All of the above as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
