//! gRPC channels: they connect when first used, reconnect by themselves, and notice a dead server.

use std::time::Duration;

use fault::{Fault, Kind};
use tonic::transport::{Channel, Endpoint};

use crate::codes;
use crate::connection::{CONNECTION_WINDOW, HEADERS_MAX, STREAM_WINDOW};
use crate::connector::{Connector, Dialed};
use crate::tls::{Speaks, Tls};

const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER_MAX: Duration = Duration::from_secs(5);

/// A channel to `https://host:port`, with the caller's certificate, or to `http://host:port`.
pub fn channel(endpoint: &str, tls: Option<&Tls>) -> Result<Channel, Fault> {
    let uri = checked(endpoint, tls.is_some())?;
    let endpoint = Endpoint::from(uri)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_MAX)
        .keep_alive_while_idle(true);
    let connector = Connector { tls: tls.cloned().map(Dialed::Own), speaks: Speaks::Grpc };
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// An endpoint that can be dialed.
pub(crate) fn checked(endpoint: &str, has_tls: bool) -> Result<http::Uri, Fault> {
    let refuse = |why: &str, hint: &str| {
        let shown = &endpoint[..endpoint.floor_char_boundary(200)];
        Fault::new(codes::ENDPOINT, Kind::Invalid, format!("endpoint {shown:?} {why}"), hint)
    };
    let form = "write it like https://10.20.0.11:2379";
    let uri: http::Uri = endpoint.parse().map_err(|_| refuse("is not a URL", form))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(refuse("names no host", form));
    }
    match uri.scheme_str() {
        Some("http") => Ok(uri),
        Some("https") if has_tls => Ok(uri),
        Some("https") => Err(refuse("needs certificates", "give the CA, certificate and key")),
        _ => Err(refuse("has no scheme http or https", form)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_before_they_are_dialed() {
        for good in ["http://127.0.0.1:1", "http://node01:2379", "http://[::1]:2379"] {
            assert!(checked(good, false).is_ok(), "{good}");
        }
        assert!(checked("https://node01:2379", true).is_ok());
        for bad in ["", "node01:2379", "127.0.0.1:2379", "ftp://a", "https://a:1", "http://", "/x"]
        {
            assert_eq!(checked(bad, false).unwrap_err().code, codes::ENDPOINT, "{bad}");
        }
    }
}
