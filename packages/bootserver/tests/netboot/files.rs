//! Scripts and images over plain HTTP: whole, in parts, and for callers who mean no good.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use crate::server::{Cloud, ROOT_BYTES, ask, request, root_image, sha256};

#[tokio::test]
async fn images_come_whole_and_in_parts() {
    let cloud = Cloud::start("").await;
    let root = root_image();
    let get = async |more: &str| {
        ask(cloud.boot, &format!("GET /boot/images/root.squashfs HTTP/1.1{more}")).await
    };
    let whole = get("").await;
    assert_eq!((whole.status, whole.body == root), (200, true));
    let etag = format!("\"{}\"", sha256(&root));
    assert_eq!(whole.header("etag"), Some(etag.as_str()));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-length"), Some(ROOT_BYTES.to_string().as_str()));

    for (range, first, last) in [
        ("0-0", 0, 0),
        ("5-1000004", 5, 1_000_004),
        ("1000005-", 1_000_005, ROOT_BYTES - 1),
        ("-7", ROOT_BYTES - 7, ROOT_BYTES - 1),
    ] {
        let part = get(&format!("\r\nRange: bytes={range}")).await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.body, root[first..=last], "{range}");
        let wanted = format!("bytes {first}-{last}/{ROOT_BYTES}");
        assert_eq!(part.header("content-range"), Some(wanted.as_str()));
    }
    let outside = get(&format!("\r\nRange: bytes={ROOT_BYTES}-")).await;
    assert_eq!(outside.status, 416);
    assert_eq!(outside.header("content-range"), Some(format!("bytes */{ROOT_BYTES}").as_str()));
    assert_eq!(get("\r\nRange: bytes=9-2, 4-x").await.status, 200, "nonsense is no range");

    assert_eq!(get(&format!("\r\nIf-None-Match: {etag}")).await.status, 304);
    let kept = get(&format!("\r\nRange: bytes=1-2\r\nIf-Range: {etag}")).await;
    assert_eq!(kept.status, 206);
    let replaced = get("\r\nRange: bytes=1-2\r\nIf-Range: \"of before\"").await;
    assert_eq!((replaced.status, replaced.body.len()), (200, ROOT_BYTES));
    let head = ask(cloud.boot, "HEAD /boot/images/root.squashfs HTTP/1.1").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(ROOT_BYTES.to_string().as_str()));
    cloud.stop().await;
}

#[tokio::test]
async fn scripts_loaders_and_the_archive_are_served_without_secrets() {
    let cloud = Cloud::start("").await;
    let get = async |path: &str| ask(cloud.boot, &format!("GET {path} HTTP/1.1")).await;
    let first = get("/boot/autoexec.ipxe").await.text();
    assert!(first.starts_with("#!ipxe\n"), "{first}");
    let base = format!("http://10.20.0.1:{}", cloud.boot.port());
    assert!(first.contains(&format!("{base}/boot/script?mac=${{netX/mac}}")), "{first}");
    let manifest = get("/boot/images/manifest.json").await.text();
    assert!(manifest.contains("root.squashfs"), "{manifest}");
    assert_eq!(get("/boot/efi/ipxe.efi").await.body, b"MZ");
    assert_eq!(get("/boot/undionly.kpxe").await.status, 503, "it is not installed here");
    let archive = get("/boot/ca.cpio").await;
    assert_eq!(archive.body, get("/boot/images/ca.cpio").await.body);
    let text = archive.text();
    let port = cloud.base.rsplit(':').next().unwrap();
    assert!(text.contains("BEGIN CERTIFICATE") && text.contains("target = \"lab\""), "{text}");
    assert!(text.contains(&format!("bootserver = \"https://10.20.0.1:{port}\"")), "{text}");
    assert!(!text.contains("PRIVATE"), "{text}");
    cloud.stop().await;
}

#[tokio::test]
async fn hostile_callers_get_an_error_and_nothing_else() {
    let cloud = Cloud::start("").await;
    let huge = "x".repeat(100_000);
    let long = "x".repeat(20_000);
    let mac = "mac=52:54:00:20:00:11";
    for (line, allowed) in [
        ("GET /boot/script HTTP/1.1".to_owned(), vec![400]),
        ("GET /boot/script?mac= HTTP/1.1".to_owned(), vec![400]),
        ("GET /boot/script?mac=ff:ff:ff:ff:ff:ff HTTP/1.1".to_owned(), vec![400]),
        ("GET /boot/script?mac=%ff%fe HTTP/1.1".to_owned(), vec![400]),
        (format!("GET /boot/script?mac={long} HTTP/1.1"), vec![400, 414, 431]),
        (format!("GET /boot/script?{mac}&{mac} HTTP/1.1"), vec![200, 400]),
        (format!("GET /boot/script?{mac}&serial={long} HTTP/1.1"), vec![200]),
        (format!("GET /boot/script?{mac}&serial=%00%1b%5b2J%22%26%26shell HTTP/1.1"), vec![200]),
        (format!("GET /boot/script?{mac}&serial={huge} HTTP/1.1"), vec![0, 400, 414, 431]),
        (format!("GET /boot/script?{mac} HTTP/1.1\r\nX: {huge}"), vec![0, 400, 431]),
        (format!("POST /boot/script?{mac} HTTP/1.1"), vec![400]),
        ("GET /boot/images/../../etc/passwd HTTP/1.1".to_owned(), vec![400, 404]),
        ("GET /boot/images/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1".to_owned(), vec![404]),
        ("GET /boot/images/%2e%2e HTTP/1.1".to_owned(), vec![404]),
        ("GET /boot/images/vmlinuz%00 HTTP/1.1".to_owned(), vec![404]),
        ("GET /boot/images/%ff HTTP/1.1".to_owned(), vec![400, 404]),
        (format!("GET /boot/images/{long} HTTP/1.1"), vec![404]),
        ("GET /boot/efi/..%2f..%2fstate%2fca%2fca-key.pem HTTP/1.1".to_owned(), vec![404]),
        ("GET /boot/efi/passwd HTTP/1.1".to_owned(), vec![404]),
        ("GET / HTTP/1.1".to_owned(), vec![404]),
        ("GET /v1/status HTTP/1.1".to_owned(), vec![404]),
        ("POST /v1/claim HTTP/1.1\r\nContent-Length: 0".to_owned(), vec![404]),
        ("BREW /boot/script HTTP/9.9".to_owned(), vec![0, 400, 505]),
    ] {
        let answer = ask(cloud.boot, &line).await;
        let shown: String = line.chars().take(80).collect();
        assert!(allowed.contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
        let text = answer.text();
        assert!(!text.contains("PRIVATE") && !text.contains("root:"), "{shown}");
        assert!(!text.contains('\u{1b}') && !text.contains("&&shell"), "{shown}: {text}");
    }
    let list = cloud.operator().machines().await.unwrap().machines;
    assert_eq!(list.len(), 1);
    assert!(list[0].serial.as_ref().is_some_and(|serial| serial.len() <= 128), "{list:?}");
    cloud.stop().await;
}

#[tokio::test]
async fn a_bounded_number_is_served_at_once_and_the_others_wait() {
    let cloud = Cloud::start("max_streams = 1\n").await;
    let root = root_image();
    let line = "GET /boot/images/root.squashfs HTTP/1.1";
    // more than the buffers of both ends hold, so that this one cannot end by itself
    let mut first = request(cloud.boot, line).await;
    let mut byte = [0u8; 1];
    first.read_exact(&mut byte).await.unwrap();
    let second = tokio::spawn({
        let boot = cloud.boot;
        async move { ask(boot, line).await }
    });
    // what is small waits for nobody
    let kernel = ask(cloud.boot, "GET /boot/images/vmlinuz HTTP/1.1").await;
    assert_eq!(kernel.body, b"a kernel");
    drop(first);
    let second = tokio::time::timeout(Duration::from_secs(30), second).await.unwrap().unwrap();
    assert_eq!((second.status, second.body == root), (200, true));
    cloud.stop().await;
}

#[tokio::test]
async fn the_manifest_comes_over_tls_too_and_nothing_else_of_the_images_does() {
    let cloud = Cloud::start("").await;
    let get = async |name: &str| {
        let url = format!("{}/boot/images/{name}", cloud.base);
        cloud.nobody().get_json::<serde_json::Value>(&url).await
    };
    let plain = ask(cloud.boot, "GET /boot/images/manifest.json HTTP/1.1").await;
    let plain: serde_json::Value = serde_json::from_slice(&plain.body).unwrap();
    assert_eq!(get("manifest.json").await.unwrap(), plain);
    for name in ["vmlinuz", "root.squashfs", "ca.cpio"] {
        assert_eq!(fault::Fault::from(get(name).await.unwrap_err()).code.0, "BS-2003", "{name}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn images_that_are_not_what_the_manifest_says_are_not_served() {
    let cloud = Cloud::start("").await;
    let images = cloud.dir.path().join("images");
    let mut bytes = std::fs::read(images.join("root.squashfs")).unwrap();
    bytes[77] ^= 1;
    std::fs::write(images.join("root.squashfs"), &bytes).unwrap();
    let answer = ask(cloud.boot, "GET /boot/images/root.squashfs HTTP/1.1").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("BS-7002"));
    // without images a new machine waits, and is told why
    std::fs::remove_file(images.join("manifest.json")).unwrap();
    let script = cloud.script(&crate::server::Machine::of("node01")).await;
    assert!(script.contains("wait") && script.contains("manifest.json"), "{script}");
    cloud.stop().await;
}
