//! Copies a file, from the running system or from the boot server, while its sum is taken. The
//! boot server speaks plain HTTP here: the sum is what is trusted, and the manifest that has it comes
//! by TLS, or from where the operator says.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fault::{Fault, Kind};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::codes;
use crate::disk::{Expected, Source};

/// Nothing arriving for this long ends a fetch; it is tried again.
const IDLE: Duration = Duration::from_secs(30);
/// So does taking longer in all: the largest image comes with 600 KiB a second.
const TOTAL: Duration = Duration::from_secs(600);
/// What is fetched without knowing its size is no longer than this.
const UNKNOWN_MAX: u64 = 1 << 20;
const CHUNK: usize = 1 << 18;

/// Copies `source` to `path` and syncs it.
pub(crate) async fn to_file(
    source: &Source,
    path: &Path,
    expected: Option<&Expected>,
) -> Result<(), Fault> {
    to_file_within(TOTAL, source, path, expected).await
}

async fn to_file_within(
    total: Duration,
    source: &Source,
    path: &Path,
    expected: Option<&Expected>,
) -> Result<(), Fault> {
    let shown = match source {
        Source::File(from) => from.display().to_string(),
        Source::Url(url) => url.clone(),
    };
    let failed = |why: Why| file_fault(format!("cannot copy {shown} to {}: {why}", path.display()));
    let file = File::create(path).await.map_err(|error| failed(error.into()))?;
    let most = expected.map_or(UNKNOWN_MAX, |expected| expected.bytes);
    let mut sink = Sink { file, sum: digest::Context::new(&digest::SHA256), bytes: 0, most };
    let filled = tokio::time::timeout(total, async {
        match source {
            Source::File(from) => sink.fill_from_file(from).await,
            Source::Url(url) => sink.fill_from_url(url).await,
        }
    });
    filled.await.unwrap_or(Err(Why::Slow(total.as_secs()))).map_err(failed)?;
    let Sink { file, sum, bytes, .. } = sink;
    file.sync_all().await.map_err(|error| failed(error.into()))?;
    let found = hex(sum.finish().as_ref());
    match expected {
        Some(expected) if expected.bytes != bytes || expected.sha256 != found => {
            Err(Fault::new(
                codes::IMAGE,
                // the boot server may be given other images at this very moment
                Kind::Unavailable,
                format!(
                    "{shown} has {bytes} bytes with sha256 {found}, the manifest says {} with {}",
                    expected.bytes, expected.sha256
                ),
                "give the boot server images and manifest of one build",
            ))
        }
        _ => Ok(()),
    }
}

/// A file's size and sum; `None` when there is none.
pub(crate) async fn sum_of(path: &Path) -> Result<Option<Expected>, Fault> {
    let failed = |error| file_fault(format!("cannot read {}: {error}", path.display()));
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let (mut sum, mut bytes) = (digest::Context::new(&digest::SHA256), 0_u64);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).await.map_err(failed)?;
        if read == 0 {
            return Ok(Some(Expected { sha256: hex(sum.finish().as_ref()), bytes }));
        }
        sum.update(chunk.get(..read).unwrap_or_default());
        bytes = bytes.saturating_add(read as u64);
    }
}

/// Why a copy broke off.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("{0}")]
    Connection(#[from] hyper::Error),
    #[error("it is no http:// address with a host")]
    Address,
    #[error("the boot server answers {0}")]
    Answer(http::StatusCode),
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    #[error("nothing arrived for {} s", IDLE.as_secs())]
    Silent,
    #[error("it was not all there within {0} s")]
    Slow(u64),
}

struct Sink {
    file: File,
    sum: digest::Context,
    bytes: u64,
    most: u64,
}

impl Sink {
    async fn take(&mut self, chunk: &[u8]) -> Result<(), Why> {
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        if self.bytes > self.most {
            return Err(Why::TooLong(self.most));
        }
        self.sum.update(chunk);
        Ok(self.file.write_all(chunk).await?)
    }

    async fn fill_from_file(&mut self, from: &Path) -> Result<(), Why> {
        let mut file = File::open(from).await?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            self.take(chunk.get(..read).unwrap_or_default()).await?;
        }
        Ok(self.file.flush().await?)
    }

    async fn fill_from_url(&mut self, url: &str) -> Result<(), Why> {
        let uri: Uri = url.parse().map_err(http::Error::from)?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or(Why::Address)?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let stream = within(TcpStream::connect(&address)).await?;
        let (mut sender, connection) =
            within(hyper::client::conn::http1::handshake(TokioIo::new(stream))).await?;
        let connection = tokio::spawn(connection);
        let _ended = AbortOnDrop(connection.abort_handle());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).header("host", &address).body(Empty::<Bytes>::new())?;
        let response = within(sender.send_request(request)).await?;
        if !response.status().is_success() {
            return Err(Why::Answer(response.status()));
        }
        let mut body = response.into_body();
        while let Some(frame) =
            tokio::time::timeout(IDLE, body.frame()).await.map_err(|_| Why::Silent)?
        {
            if let Some(chunk) = frame?.data_ref() {
                self.take(chunk).await?;
            }
        }
        Ok(self.file.flush().await?)
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn within<T, E: Into<Why>>(work: impl Future<Output = Result<T, E>>) -> Result<T, Why> {
    match tokio::time::timeout(IDLE, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Why::Silent),
    }
}

fn file_fault(what: String) -> Fault {
    Fault::new(
        codes::INSTALL_FILE,
        Kind::Unavailable,
        what,
        "it is tried again; look whether the boot server runs and the disk has room",
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) fn hex_sum(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes, as they are.
    async fn serve(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("asked");
            let mut lines = tokio::io::BufReader::new(&mut stream).lines();
            while lines.next_line().await.expect("request").is_some_and(|line| !line.is_empty()) {}
            stream.write_all(answer).await.expect("answered");
        });
        format!("http://{address}/boot/images/vmlinuz")
    }

    fn expected(bytes: &[u8]) -> Expected {
        Expected { sha256: hex_sum(bytes), bytes: bytes.len() as u64 }
    }

    async fn fetch(answer: &'static [u8], wanted: &Expected) -> Result<Vec<u8>, fault::Code> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        let source = Source::Url(serve(answer).await);
        to_file(&source, &path, Some(wanted)).await.map_err(|fault| fault.code)?;
        Ok(std::fs::read(path).expect("written"))
    }

    #[tokio::test]
    async fn what_arrives_is_checked() {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nkernel";
        assert_eq!(fetch(good, &expected(b"kernel")).await.as_deref(), Ok(b"kernel".as_slice()));
        assert_eq!(fetch(good, &expected(b"kernal")).await, Err(codes::IMAGE));
        // longer than it may be, cut short, and refused
        assert_eq!(fetch(good, &expected(b"kern")).await, Err(codes::INSTALL_FILE));
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nkernel";
        assert_eq!(fetch(cut, &expected(b"kernel")).await, Err(codes::INSTALL_FILE));
        let refused = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(fetch(refused, &expected(b"kernel")).await, Err(codes::INSTALL_FILE));
    }

    #[tokio::test]
    async fn what_trickles_in_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("asked");
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            stream.write_all(head).await.expect("answered");
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let folder = tempfile::tempdir().expect("temporary folder");
        let (source, path) =
            (Source::Url(format!("http://{address}/")), folder.path().join("file"));
        let done = to_file_within(Duration::from_millis(100), &source, &path, None).await;
        let fault = done.expect_err("it has no end");
        assert!(fault.kind.passes() && fault.what.contains("not all there"), "{fault}");
    }

    #[tokio::test]
    async fn a_file_of_the_running_system_is_checked_too() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, b"kernel").expect("written");
        let source = Source::File(from);
        to_file(&source, &to, Some(&expected(b"kernel"))).await.expect("the same");
        assert_eq!(sum_of(&to).await, Ok(Some(expected(b"kernel"))));
        assert_eq!(sum_of(&folder.path().join("none")).await, Ok(None));
        let other = to_file(&source, &to, Some(&expected(b"kernal"))).await;
        assert_eq!(other.map_err(|fault| fault.code), Err(codes::IMAGE));
    }
}
