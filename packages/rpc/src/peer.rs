//! Who is calling.

use std::net::SocketAddr;
use std::sync::Arc;

use fault::{Fault, Kind};
use http::Extensions;
use identity::SpiffeId;
use rustls::pki_types::CertificateDer;

use crate::codes;

/// The caller of a request: an extension of every request that a [`crate::Server`] hands on.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The id in the certificate that the handshake verified; none on plaintext, without a
    /// certificate, and for a certificate that carries no id of ours.
    pub id: Option<SpiffeId>,
    /// The common name in that certificate, whoever the cluster's CA gave it to.
    pub common_name: Option<Arc<str>>,
    /// Where the connection comes from.
    pub addr: SocketAddr,
    /// SHA-256 of the caller's public key, in hex.
    pub key_hash: Option<Arc<str>>,
}

impl Peer {
    /// A caller without a certificate.
    pub fn unknown(addr: SocketAddr) -> Self {
        Self { id: None, common_name: None, addr, key_hash: None }
    }

    /// The caller of a request, from its extensions.
    pub fn of(extensions: &Extensions) -> Option<&Peer> {
        extensions.get()
    }

    /// The caller behind a verified chain.
    pub(crate) fn verified(addr: SocketAddr, chain: Option<&[CertificateDer<'_>]>) -> Self {
        let leaf = chain.and_then(<[_]>::first);
        Self {
            id: leaf.and_then(|der| identity::spiffe_of_cert_der(der)),
            common_name: leaf.and_then(|der| identity::common_name_of_cert_der(der)).map(Arc::from),
            addr,
            key_hash: leaf
                .and_then(|der| identity::public_key_hash_of_cert_der(der))
                .map(Arc::from),
        }
    }

    /// The caller must be this service, on any node of the cluster; returns the node.
    pub fn require_service(&self, service: &str, cluster: &str) -> Result<&str, Fault> {
        match self.of_cluster(cluster)? {
            SpiffeId::Service { service: own, node, .. } if own == service => Ok(node),
            other => Err(wrong(other, &format!("service {service}"))),
        }
    }

    /// The caller must be a node of the cluster; returns its name.
    pub fn require_node(&self, cluster: &str) -> Result<&str, Fault> {
        match self.of_cluster(cluster)? {
            SpiffeId::Node { node, .. } => Ok(node),
            other => Err(wrong(other, "a node")),
        }
    }

    /// The caller must be an operator of the cluster; returns the name.
    pub fn require_operator(&self, cluster: &str) -> Result<&str, Fault> {
        match self.of_cluster(cluster)? {
            SpiffeId::Operator { name, .. } => Ok(name),
            other => Err(wrong(other, "an operator")),
        }
    }

    fn of_cluster(&self, cluster: &str) -> Result<&SpiffeId, Fault> {
        let Some(id) = &self.id else {
            return Err(Fault::new(
                codes::NO_CERTIFICATE,
                Kind::Unauthenticated,
                format!("caller {} showed no certificate of the cluster", self.addr),
                "call with a client certificate",
            ));
        };
        if id.cluster() != cluster {
            return Err(wrong(id, &format!("of cluster {cluster}")));
        }
        Ok(id)
    }
}

fn wrong(id: &SpiffeId, needed: &str) -> Fault {
    Fault::new(
        codes::WRONG_CALLER,
        Kind::Denied,
        format!("caller {id} is not {needed}"),
        "call with a certificate that may do this",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requirement_accepts_its_own_kind_only() {
        let peer = |id: &str| Peer {
            id: Some(id.parse().unwrap()),
            ..Peer::unknown(([127, 0, 0, 1], 1).into())
        };
        let node = peer("spiffe://plasma/node/node01");
        let service = peer("spiffe://plasma/svc/chainfire/node01");
        let operator = peer("spiffe://plasma/operator/admin");
        assert_eq!(node.require_node("plasma").unwrap(), "node01");
        assert_eq!(service.require_service("chainfire", "plasma").unwrap(), "node01");
        assert_eq!(operator.require_operator("plasma").unwrap(), "admin");

        for refused in [
            node.require_node("other"),
            node.require_operator("plasma"),
            node.require_service("chainfire", "plasma"),
            service.require_service("iam", "plasma"),
            service.require_node("plasma"),
            operator.require_node("plasma"),
        ] {
            assert_eq!(refused.unwrap_err().code, codes::WRONG_CALLER);
        }
        let nobody = Peer::unknown(([127, 0, 0, 1], 1).into());
        assert_eq!(nobody.require_node("plasma").unwrap_err().code, codes::NO_CERTIFICATE);
    }
}
