//! The JSON gateway and the pages beside it, as bytes on a connection.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::one::One;

/// A connection of HTTP/1.1, used again until something is refused: what was not read of a body then
/// ends it.
struct Http(BufReader<TcpStream>, String);

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

impl Http {
    async fn connect(address: &str) -> Result<Http> {
        Ok(Http(BufReader::new(TcpStream::connect(address).await?), address.to_owned()))
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<()> {
        let length = body.len();
        let whole = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Ok(self.0.write_all(whole.as_bytes()).await?)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let wait = Duration::from_secs(60);
        let count = tokio::time::timeout(wait, self.0.read_line(&mut line)).await??;
        ensure!(count > 0, "the connection ended");
        Ok(line.trim_end_matches("\r\n").to_owned())
    }

    async fn head(&mut self) -> Result<Answer> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).context("a status")?.parse()?;
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        Ok(Answer { status, headers, body: String::new() })
    }

    async fn exact(&mut self, length: usize) -> Result<String> {
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(String::from_utf8(body)?)
    }

    /// The next piece of a body in pieces; empty at its end.
    async fn piece(&mut self) -> Result<String> {
        let length = usize::from_str_radix(&self.line().await?, 16)?;
        let piece = self.exact(length).await?;
        ensure!(self.line().await?.is_empty());
        Ok(piece)
    }

    async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.send(method, path, body).await?;
        let mut answer = self.head().await?;
        match answer.headers.get("content-length") {
            Some(length) => answer.body = self.exact(length.parse()?).await?,
            None => loop {
                let piece = self.piece().await?;
                if piece.is_empty() {
                    break;
                }
                answer.body += &piece;
            },
        }
        if answer.status != 200 {
            *self = Http::connect(&self.1).await?;
        }
        Ok(answer)
    }

    async fn post(&mut self, path: &str, body: Value) -> Result<Value> {
        let answer = self.call("POST", path, &body.to_string()).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        ensure!(answer.headers["content-type"] == "application/json");
        answer.json()
    }

    /// It must be refused: status, code, text.
    async fn refused(&mut self, path: &str, body: Value) -> Result<(u16, i64, String)> {
        let answer = self.call("POST", path, &body.to_string()).await?;
        let said = answer.json()?;
        ensure!(said["error"] == said["message"], "{said}");
        let text = said["message"].as_str().context("a text")?.to_owned();
        Ok((answer.status, said["code"].as_i64().context("a code")?, text))
    }
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_transactions_in_json() -> Result<()> {
    let one = One::start().await?;
    let mut http = Http::connect(&one.plain()?).await?;
    let put = http.post("/v3/kv/put", json!({ "key": "Zm9v", "value": "YmFy" })).await?;
    let header = &put["header"];
    ensure!(header["revision"] == "2" && header["raft_term"].is_string(), "{put}");
    ensure!(words(&header["cluster_id"]).parse::<u64>()? > 0, "{put}");

    let range = http.post("/v3/kv/range", json!({ "key": "Zm9v" })).await?;
    let pair = json!({
        "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy",
    });
    ensure!(range["kvs"] == json!([pair]) && range["count"] == "1", "{range}");
    ensure!(range.get("more").is_none(), "what is at its default is left out");
    let named = json!({ "key": "AA==", "rangeEnd": "AA==", "limit": "1", "sortOrder": "DESCEND" });
    ensure!(http.post("/v3/kv/range", named).await?["kvs"][0]["key"] == "Zm9v");
    let older = http.post("/v3beta/kv/range", json!({ "key": "Zm9v" })).await?;
    ensure!(older["kvs"] == range["kvs"]);

    let txn = json!({
        "compare": [{ "target": "VALUE", "key": "Zm9v", "value": "YmFy", "result": "EQUAL" }],
        "success": [
            { "requestPut": { "key": "Zm9v", "value": "Mg==", "prev_kv": true } },
            { "request_range": { "key": "Zm9v" } },
        ],
        "failure": [{ "request_delete_range": { "key": "Zm9v" } }],
    });
    let answer = http.post("/v3/kv/txn", txn.clone()).await?;
    ensure!(answer["succeeded"] == true, "{answer}");
    ensure!(answer["responses"][0]["response_put"]["prev_kv"]["value"] == "YmFy", "{answer}");
    ensure!(answer["responses"][1]["response_range"]["kvs"][0]["value"] == "Mg==", "{answer}");
    let answer = http.post("/v3/kv/txn", txn).await?;
    ensure!(answer.get("succeeded").is_none(), "{answer}");
    ensure!(answer["responses"][0]["response_delete_range"]["deleted"] == "1", "{answer}");

    let (status, code, text) = http.refused("/v3/kv/put", json!({ "value": "YQ==" })).await?;
    ensure!((status, code, &*text) == (400, 3, "etcdserver: key is not provided"));
    let future = json!({ "revision": "99", "physical": false });
    let (status, code, text) = http.refused("/v3/kv/compaction", future).await?;
    let expected = "etcdserver: mvcc: required revision is a future revision";
    ensure!((status, code, &*text) == (400, 11, expected), "{status} {code} {text}");
    for (body, why) in [("{\"key\":7}", "a number"), ("[1]", "a list"), ("{\"key\"", "half")] {
        let answer = http.call("POST", "/v3/kv/range", body).await?;
        ensure!(answer.status == 400 && answer.json()?["code"] == 3, "{why}: {}", answer.body);
        ensure!(words(&answer.json()?["hint"]).contains("base64"), "{}", answer.body);
    }
    let (status, code, _) = http.refused("/v3/kv/nothing", json!({})).await?;
    ensure!((status, code) == (404, 5));
    let answer = http.call("GET", "/v3/kv/range", "").await?;
    ensure!(answer.status == 501 && answer.json()?["code"] == 12, "as etcd's gateway says it");
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_services_in_json() -> Result<()> {
    let one = One::start().await?;
    let mut http = Http::connect(&one.plain()?).await?;
    let grant = http.post("/v3/lease/grant", json!({ "TTL": 600, "ID": "77" })).await?;
    ensure!((&grant["ID"], &grant["TTL"]) == (&json!("77"), &json!("600")), "{grant}");
    let put = json!({ "key": "bA==", "value": "MQ==", "lease": "77" });
    http.post("/v3/kv/put", put).await?;
    let left = http.post("/v3/lease/timetolive", json!({ "ID": 77, "keys": true })).await?;
    ensure!(left["grantedTTL"] == "600" && left["keys"] == json!(["bA=="]), "{left}");
    let leases = http.post("/v3/kv/lease/leases", json!({})).await?;
    ensure!(leases["leases"] == json!([{ "ID": "77" }]), "{leases}");
    let alive = http.call("POST", "/v3/lease/keepalive", r#"{"ID":77} {"ID":"77"}"#).await?;
    let lines: Vec<Value> =
        alive.body.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 2, "{}", alive.body);
    ensure!(lines.iter().all(|line| line["result"]["TTL"] == "600"), "{}", alive.body);
    http.post("/v3/kv/lease/revoke", json!({ "ID": "77" })).await?;
    let (status, code, text) = http.refused("/v3/lease/revoke", json!({ "ID": "77" })).await?;
    ensure!((status, code, &*text) == (404, 5, "etcdserver: requested lease not found"));

    let members = http.post("/v3/cluster/member/list", json!({})).await?;
    ensure!(members["members"][0]["name"] == "one", "{members}");
    let status = http.post("/v3/maintenance/status", json!({})).await?;
    ensure!(status["version"] == "3.7.0" && status["storageVersion"] == "3.7.0", "{status}");
    ensure!(status["downgradeInfo"] == json!({}), "{status}");
    let alarms = http.post("/v3/maintenance/alarm", json!({ "action": "GET" })).await?;
    ensure!(alarms.get("alarms").is_none(), "{alarms}");
    let nobody = json!({ "targetID": "1" });
    let (.., text) = http.refused("/v3/maintenance/transfer-leadership", nobody).await?;
    ensure!(text == "etcdserver: bad leader transferee");
    let down = json!({ "action": "VALIDATE", "version": "3.6" });
    let (status, _, text) = http.refused("/v3/maintenance/downgrade", down).await?;
    ensure!((status, &*text) == (400, "etcdserver: invalid downgrade target version"));
    let hash = http.post("/v3/maintenance/hashkv", json!({})).await?;
    ensure!(hash["hash"].is_u64(), "32 bits are a number: {hash}");
    let auth = http.post("/v3/auth/status", json!({})).await?;
    ensure!(auth.get("enabled").is_none(), "{auth}");
    let snapshot = http.call("POST", "/v3/maintenance/snapshot", "{}").await?;
    ensure!(snapshot.body.starts_with(r#"{"result":{"#), "{}", &snapshot.body[..80]);

    let lock = http.post("/v3/lock/lock", json!({ "name": "bXV0ZXg=" })).await?;
    http.post("/v3/lock/unlock", json!({ "key": lock["key"] })).await?;
    let name = json!({ "name": "b2ZmaWNl" });
    let (status, code, text) = http.refused("/v3/election/leader", name.clone()).await?;
    ensure!((status, code, &*text) == (500, 2, "election: no leader"));
    let grant = http.post("/v3/lease/grant", json!({ "TTL": 600 })).await?;
    let campaign = json!({ "name": "b2ZmaWNl", "value": "YW5u", "lease": grant["ID"] });
    let won = http.post("/v3/election/campaign", campaign).await?;
    let mut observer = Http::connect(&one.plain()?).await?;
    observer.send("POST", "/v3/election/observe", &name.to_string()).await?;
    ensure!(observer.head().await?.status == 200);
    let seen: Value = serde_json::from_str(&observer.piece().await?)?;
    ensure!(seen["result"]["kv"]["value"] == "YW5u", "{seen}");
    let proclaim = json!({ "leader": won["leader"], "value": "Ym9i" });
    http.post("/v3/election/proclaim", proclaim).await?;
    let seen: Value = serde_json::from_str(&observer.piece().await?)?;
    ensure!(seen["result"]["kv"]["value"] == "Ym9i", "{seen}");
    http.post("/v3/election/resign", json!({ "leader": won["leader"] })).await?;
    let (_, code, text) = http.refused("/v3/election/resign", json!({})).await?;
    ensure!((code, &*text) == (2, "\"leader\" field must be provided"));
    drop(observer);
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_its_request() -> Result<()> {
    let one = One::start().await?;
    let mut http = Http::connect(&one.plain()?).await?;
    http.post("/v3/kv/put", json!({ "key": "dw==", "value": "MQ==" })).await?;
    let mut watch = Http::connect(&one.plain()?).await?;
    let create = json!({ "create_request": { "key": "dw==", "start_revision": "2" } });
    watch.send("POST", "/v3/watch", &create.to_string()).await?;
    let head = watch.head().await?;
    ensure!(head.status == 200 && head.headers["transfer-encoding"] == "chunked");
    // each message is a piece and a line of its own: clients take pieces for messages
    let created = watch.piece().await?;
    ensure!(created.ends_with("}\n"), "{created}");
    let created: Value = serde_json::from_str(&created)?;
    ensure!(created["result"]["created"] == true, "{created}");
    let event: Value = serde_json::from_str(&watch.piece().await?)?;
    ensure!(event["result"]["events"][0]["kv"]["value"] == "MQ==", "{event}");
    http.post("/v3/kv/deleterange", json!({ "key": "dw==" })).await?;
    let event: Value = serde_json::from_str(&watch.piece().await?)?;
    ensure!(event["result"]["events"][0]["type"] == "DELETE", "{event}");

    // one that asks step by step, and then asks for what cannot be read
    let mut steps = Http::connect(&one.plain()?).await?;
    let head = "POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    steps.0.write_all(head.as_bytes()).await?;
    let ask = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    steps.0.write_all(ask(&create.to_string()).as_bytes()).await?;
    ensure!(steps.head().await?.status == 200);
    ensure!(steps.piece().await?.contains("\"created\":true"));
    ensure!(steps.piece().await?.contains("events"));
    let second = json!({ "create_request": { "key": "eA==", "watch_id": 9 } });
    steps.0.write_all(ask(&second.to_string()).as_bytes()).await?;
    ensure!(steps.piece().await?.contains("\"watch_id\":\"9\""));
    steps.0.write_all(ask("{\"create_request\":7}").as_bytes()).await?;
    let last: Value = serde_json::from_str(&steps.piece().await?)?;
    ensure!(last["error"]["grpc_code"] == 3 && last["error"]["http_code"] == 400, "{last}");
    ensure!(steps.piece().await?.is_empty(), "that ends it");

    let mut wrong = Http::connect(&one.plain()?).await?;
    let answer = wrong.call("POST", "/v3/watch", "{\"create_request\":7}").await?;
    ensure!(answer.status == 400 && answer.json()?["error"]["code"] == 3, "{}", answer.body);
    drop((watch, steps));
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_the_client_port() -> Result<()> {
    let one = One::start().await?;
    let mut http = Http::connect(&one.plain()?).await?;
    // answered once there is a leader
    http.post("/v3/kv/put", json!({ "key": "YQ==" })).await?;
    let version = http.call("GET", "/version", "").await?.json()?;
    ensure!(version["etcdserver"] == "3.7.0" && version["etcdcluster"] == "3.7.0", "{version}");
    for path in ["/health", "/health?serializable=true"] {
        let health = http.call("GET", path, "").await?;
        ensure!(health.status == 200, "{}", health.body);
        ensure!(health.json()? == json!({ "health": "true", "reason": "" }), "{}", health.body);
    }
    ensure!(http.call("POST", "/health", "{}").await?.status == 405);
    let ready = http.call("GET", "/readyz?verbose", "").await?;
    ensure!(
        ready.status == 200 && ready.body.contains("[+]linearizable_read ok\n"),
        "{}",
        ready.body
    );
    ensure!(http.call("GET", "/livez", "").await?.body == "ok\n");

    let alarm = json!({ "action": "ACTIVATE", "alarm": "NOSPACE", "memberID": "7" });
    http.post("/v3/maintenance/alarm", alarm).await?;
    let health = http.call("GET", "/health", "").await?;
    ensure!(health.status == 503, "{}", health.body);
    ensure!(health.json()?["reason"] == "ALARM NOSPACE", "{}", health.body);
    ensure!(http.call("GET", "/health?exclude=NOSPACE", "").await?.status == 200);
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_bounded() -> Result<()> {
    let one = One::start_with("[limits]\nrequest_bytes = 10000").await?;
    let large = json!({ "key": "YQ==", "value": "A".repeat(16_000) });
    let mut http = Http::connect(&one.plain()?).await?;
    let (status, code, text) = http.refused("/v3/kv/put", large).await?;
    let expected = (400, 3, "etcdserver: request is too large");
    ensure!((status, code, &*text) == expected, "refused by the service: {text}");
    // far larger than any request can be: cut off while it comes
    let mut http = Http::connect(&one.plain()?).await?;
    let huge = format!("{{\"key\":\"{}", "A".repeat(4 << 20));
    let head =
        format!("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    http.0.write_all(head.as_bytes()).await?;
    // it may close its side before all is sent
    let _ = http.0.write_all(huge.as_bytes()).await;
    match http.head().await {
        Ok(answer) => ensure!(answer.status == 400, "{}", answer.status),
        // closed before the answer could be read, which is as good
        Err(error) => ensure!(!error.is::<tokio::time::error::Elapsed>(), "{error:#}"),
    }
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn json_over_mutual_tls() -> Result<()> {
    let one = One::start().await?;
    let tls = rpc::Tls::load(&one.operator)?;
    let https = rpc::Https::new(&tls).timeout(Duration::from_secs(60));
    let url = format!("https://{}/v3/kv/put", one.address()?);
    let put: Value = https.post_json(&url, &json!({ "key": "YQ==", "value": "MQ==" })).await?;
    ensure!(put["header"]["revision"] == "2", "{put}");
    let url = format!("https://{}/version", one.address()?);
    ensure!(https.get_json::<Value>(&url).await?["etcdserver"] == "3.7.0");
    one.member.stop().await;
    Ok(())
}
