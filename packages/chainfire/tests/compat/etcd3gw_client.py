"""Python's etcd3gw, which speaks JSON: host, port, CA, certificate and key are the arguments."""

import queue
import sys
import threading

import etcd3gw
from etcd3gw import exceptions

host, port, ca, cert, key = sys.argv[1:]
etcd = etcd3gw.client(
    host=host, port=int(port), protocol="https", ca_cert=ca, cert_cert=cert, cert_key=key,
    timeout=60,
)
assert etcd.api_path == "/v3/", "told by /version"

# keys
assert etcd.get("missing") == []
assert etcd.put("bar", "doot") is True
assert etcd.get("bar") == [b"doot"]
(value, meta), = etcd.get("bar", metadata=True)
assert value == b"doot" and meta["key"] == b"bar" and meta["version"] == "1", meta
for number in range(10):
    etcd.put(f"list/{number}", str(number))
found = [meta["key"] for _, meta in etcd.get_prefix("list/", sort_order="descend")]
assert found == [f"list/{n}".encode() for n in reversed(range(10))], found
assert len(etcd.get_all()) == 11
assert etcd.create("once", "1") is True
assert etcd.create("once", "2") is False
assert etcd.replace("bar", "doot", "new") is True
assert etcd.replace("bar", "doot", "newer") is False
assert etcd.delete("bar") is True
assert etcd.delete("bar") is False
assert etcd.delete_prefix("list/") is True

# transactions, as bare JSON
answer = etcd.transaction({
    "compare": [{"key": "dA==", "result": "EQUAL", "target": "VERSION", "version": 0}],
    "success": [{"request_put": {"key": "dA==", "value": "MQ=="}}],
    "failure": [],
})
assert answer["succeeded"] is True and "response_put" in answer["responses"][0], answer

# leases
lease = etcd.lease(ttl=600)
etcd.put("leased", "1", lease=lease)
assert 0 < lease.ttl() <= 600
assert lease.refresh() == 600
assert lease.keys() == [b"leased"]
assert lease.revoke() is True
assert etcd.get("leased") == []

# watches
seen = queue.Queue()
watch = etcd3gw.watch.Watcher(etcd, "watched", seen.put)
etcd.put("watched", "a")
etcd.delete("watched")
event = seen.get(timeout=60)
assert event["kv"]["value"] == b"a", event
event = seen.get(timeout=60)
assert event["type"] == "DELETE", event
watch.stop()
met = threading.Event()


def write_until_met():
    while not met.wait(0.05):
        etcd.put("soon/1", "x")


writer = threading.Thread(target=write_until_met)
writer.start()
# not watch_prefix_once: etcd3gw 2.7 encodes the end of its range twice
event = etcd.watch_once("soon/1", timeout=60)
met.set()
writer.join()
assert event["kv"]["key"] == b"soon/1", event

# locks
with etcd.lock("mutex", ttl=600) as lock:
    assert lock.is_acquired()
    assert etcd.lock("mutex", ttl=600).acquire() is False
assert not lock.is_acquired()

# the cluster
members = etcd.members()
assert [member["name"] for member in members] == ["one"], members
status = etcd.status()
assert status["version"] == "3.7.0" and int(status["dbSize"]) > 0, status

try:
    etcd.put("", "empty")
except exceptions.Etcd3Exception as error:
    assert "key is not provided" in error.detail_text, error.detail_text
else:
    raise AssertionError("an empty key was taken")
print("done")
