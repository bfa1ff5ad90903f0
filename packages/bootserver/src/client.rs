//! The operator's side of the boot server's API.

use std::time::Duration;

use fault::Fault;
use identity::TlsFiles;
use rpc::{Https, Tls};

use crate::wire;

/// Calls with an operator's certificate.
pub struct Operator {
    base: String,
    https: Https,
}

impl Operator {
    /// For the boot server at `base`: `https://10.20.0.1:8443`.
    pub fn new(base: &str, files: &TlsFiles) -> Result<Operator, Fault> {
        let https = Https::new(&Tls::load(files)?);
        Ok(Operator { base: base.trim_end_matches('/').to_owned(), https })
    }

    /// Where every node is.
    pub async fn status(&self) -> Result<wire::Status, Fault> {
        Ok(self.https.get_json(&self.url("/v1/status")).await?)
    }

    /// A token for a node.
    pub async fn mint(
        &self,
        node: &str,
        ttl: Option<Duration>,
    ) -> Result<wire::TokenMinted, Fault> {
        let request =
            wire::TokenRequest { node: node.to_owned(), ttl_seconds: ttl.map(|ttl| ttl.as_secs()) };
        Ok(self.https.post_json(&self.url("/v1/tokens"), &request).await?)
    }

    /// All tokens.
    pub async fn tokens(&self) -> Result<wire::Tokens, Fault> {
        Ok(self.https.get_json(&self.url("/v1/tokens")).await?)
    }

    /// Takes a token back.
    pub async fn revoke(&self, id: &str) -> Result<(), Fault> {
        let _: serde_json::Value =
            self.https.delete_json(&self.url(&format!("/v1/tokens/{id}"))).await?;
        Ok(())
    }

    /// The machines that asked what to boot, or who they are.
    pub async fn machines(&self) -> Result<wire::Machines, Fault> {
        Ok(self.https.get_json(&self.url("/v1/machines")).await?)
    }

    /// What a node's machine is told at its next boot, and why.
    pub async fn explain(&self, node: &str) -> Result<wire::Explained, Fault> {
        Ok(self.https.get_json(&self.url(&format!("/v1/boot/{}", segment(node)))).await?)
    }

    /// Orders something for a node; says what its machine is told from now on.
    pub async fn order(
        &self,
        node: &str,
        order: wire::NodeOrder,
        sticky: bool,
    ) -> Result<wire::Explained, Fault> {
        let path = format!("/v1/nodes/{}/order", segment(node));
        let request = wire::OrderRequest { order, sticky };
        Ok(self.https.post_json(&self.url(&path), &request).await?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// A name of a node as one segment of a path; what is no such name finds no node.
fn segment(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}
