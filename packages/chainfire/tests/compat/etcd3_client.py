"""Python's etcd3 against a member: host, port, CA, certificate and key are the arguments."""

import io
import queue
import sys
import threading

import etcd3

host, port, ca, cert, key = sys.argv[1:]
etcd = etcd3.client(
    host=host, port=int(port), ca_cert=ca, cert_cert=cert, cert_key=key, timeout=60
)

# keys
assert etcd.get("missing") == (None, None)
etcd.put("bar", "doot")
value, meta = etcd.get("bar")
assert value == b"doot" and meta.key == b"bar" and meta.version == 1, (value, meta)
assert etcd.put("bar", "again", prev_kv=True).prev_kv.value == b"doot"
for number in range(10):
    etcd.put(f"list/{number}", str(number))
found = [(meta.key, value) for value, meta in etcd.get_prefix("list/", sort_order="descend")]
assert found == [(f"list/{n}".encode(), str(n).encode()) for n in reversed(range(10))], found
assert len(list(etcd.get_range("list/2", "list/5"))) == 3
assert len(list(etcd.get_prefix("list/", keys_only=True))) == 10
assert etcd.replace("bar", "again", "new") is True
assert etcd.replace("bar", "again", "newer") is False
assert etcd.put_if_not_exists("once", "1") is True
assert etcd.put_if_not_exists("once", "2") is False
assert etcd.delete("bar") is True
assert etcd.delete("bar") is False
assert etcd.delete_prefix("list/").deleted == 10

# transactions
ok, answers = etcd.transaction(
    compare=[etcd.transactions.version("t") == 0, etcd.transactions.create("t") == 0],
    success=[etcd.transactions.put("t", "1"), etcd.transactions.get("t")],
    failure=[etcd.transactions.get("t")],
)
assert ok and answers[1][0][0] == b"1", answers
ok, answers = etcd.transaction(
    compare=[etcd.transactions.value("t") == "2", etcd.transactions.mod("t") > 0],
    success=[],
    failure=[etcd.transactions.delete("t", prev_kv=True)],
)
assert not ok and answers[0].response_delete_range.prev_kvs[0].value == b"1", answers

# leases
lease = etcd.lease(600)
etcd.put("leased", "1", lease=lease)
assert lease.granted_ttl == 600 and 0 < lease.remaining_ttl <= 600
assert lease.keys == [b"leased"]
assert [answer.TTL for answer in lease.refresh()] == [600]
lease.revoke()
assert etcd.get("leased") == (None, None)

# watches
seen = queue.Queue()
watch = etcd.add_watch_prefix_callback(
    "watched/", lambda answer: [seen.put(event) for event in answer.events]
)
etcd.put("watched/1", "a")
etcd.delete("watched/1")
event = seen.get(timeout=60)
assert isinstance(event, etcd3.events.PutEvent) and event.value == b"a", event
event = seen.get(timeout=60)
assert isinstance(event, etcd3.events.DeleteEvent) and event.key == b"watched/1", event
etcd.cancel_watch(watch)
events, cancel = etcd.watch("iterated", start_revision=1)
threading.Thread(target=etcd.put, args=("iterated", "x")).start()
assert next(events).value == b"x"
cancel()

# its lock is left out: etcd3 0.12 calls the library that it waits by as that was before 2020

# the cluster
members = list(etcd.members)
assert [member.name for member in members] == ["one"], members
status = etcd.status()
assert status.version == "3.7.0" and status.leader.id == members[0].id and status.db_size > 0
assert isinstance(etcd.hash(), int)
assert list(etcd.list_alarms()) == []
etcd.defragment()
for number in range(3):
    etcd.put("old", str(number))
etcd.compact(etcd.get("old")[1].mod_revision)
copy = io.BytesIO()
etcd.snapshot(copy)
assert copy.tell() % 512 == 32, copy.tell()

try:
    etcd.put("", "empty")
except Exception as error:  # the library has no error of its own for it
    assert "key is not provided" in str(error), error
else:
    raise AssertionError("an empty key was taken")
etcd.close()
print("done")
