//! Users and roles as part of the replicated state.

use std::sync::Arc;

use api::authpb::permission::Type;
use api::authpb::{Permission, UserAddOptions};
use api::chainfire_internal::auth_change::Change;
use api::chainfire_internal::{AuthChange, AuthEnable};
use api::etcdserverpb::compare::{CompareTarget, TargetUnion};
use api::etcdserverpb::*;

use super::*;

const HASH: &str = "aGFzaA==";

fn change(change: Change) -> Request {
    Request::Auth(AuthChange { change: Some(change) })
}

fn user_add(name: &str) -> Request {
    let (name, hashed_password) = (name.into(), HASH.into());
    change(Change::UserAdd(AuthUserAddRequest { name, hashed_password, ..Default::default() }))
}

fn user_delete(name: &str) -> Request {
    change(Change::UserDelete(AuthUserDeleteRequest { name: name.into() }))
}

fn role_add(name: &str) -> Request {
    change(Change::RoleAdd(AuthRoleAddRequest { name: name.into() }))
}

fn role_delete(role: &str) -> Request {
    change(Change::RoleDelete(AuthRoleDeleteRequest { role: role.into() }))
}

fn grant_role(user: &str, role: &str) -> Request {
    let (user, role) = (user.into(), role.into());
    change(Change::UserGrantRole(AuthUserGrantRoleRequest { user, role }))
}

fn revoke_role(name: &str, role: &str) -> Request {
    let (name, role) = (name.into(), role.into());
    change(Change::UserRevokeRole(AuthUserRevokeRoleRequest { name, role }))
}

fn grant(role: &str, kind: Type, key: &str, end: &str) -> Request {
    let perm = Some(Permission { perm_type: kind as i32, key: bytes(key), range_end: bytes(end) });
    let name = role.into();
    change(Change::RoleGrantPermission(AuthRoleGrantPermissionRequest { name, perm }))
}

fn revoke(role: &str, key: &str, end: &str) -> Request {
    let (role, key, range_end) = (role.into(), bytes(key), bytes(end));
    let request = AuthRoleRevokePermissionRequest { role, key, range_end };
    change(Change::RoleRevokePermission(request))
}

fn enable() -> Request {
    change(Change::Enable(AuthEnable { token_key: bytes("key") }))
}

fn disable() -> Request {
    change(Change::Disable(AuthDisableRequest {}))
}

/// A store with users that have what their names say, and authentication enabled.
pub(super) fn world() -> Bench {
    let mut bench = Bench::new();
    for request in [
        user_add("root"),
        grant_role("root", "root"),
        user_add("reader"),
        user_add("writer"),
        role_add("read-a"),
        grant("read-a", Type::Read, "a", "b"),
        grant_role("reader", "read-a"),
        role_add("write-a"),
        grant("write-a", Type::Write, "a", "b"),
        grant_role("writer", "write-a"),
        enable(),
    ] {
        bench.run(request).unwrap();
    }
    bench
}

impl Bench {
    /// Somebody's command, with what the store knows now.
    pub(super) fn by(&mut self, user: &str, request: Request) -> Result<Reply, StoreError> {
        self.by_at(user, self.reader.auth().revision(), request)
    }

    fn by_at(&mut self, user: &str, auth_revision: u64, request: Request) -> Outcome {
        let principal = Principal { user: user.into(), auth_revision };
        self.entry(&[encode_as(Some(principal), request)]).remove(0)
    }
}

fn denied() -> Result<Reply, StoreError> {
    Err(AuthError::PermissionDenied.into())
}

fn kind(outcome: Outcome) -> Result<(), AuthError> {
    match outcome {
        Ok(_) => Ok(()),
        Err(StoreError::Auth(error)) => Err(error),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn changes_follow_etcds_rules() {
    use AuthError as E;
    let mut bench = Bench::new();
    let mut said = |request| kind(bench.run(request));
    assert_eq!(said(enable()), Err(E::RootUserNotExist));
    assert_eq!(said(user_add("")), Err(E::UserEmpty));
    assert_eq!(said(user_add("root")), Ok(()));
    assert_eq!(said(user_add("root")), Err(E::UserExists));
    assert_eq!(said(enable()), Err(E::RootRoleNotExist));
    assert_eq!(said(grant_role("root", "root")), Ok(()), "the role needs not exist");
    assert_eq!(said(grant_role("root", "root")), Ok(()), "once more is no error");
    assert_eq!(said(grant_role("ann", "root")), Err(E::UserNotFound));
    assert_eq!(said(grant_role("root", "no")), Err(E::RoleNotFound));
    assert_eq!(said(role_add("")), Err(E::RoleEmpty));
    assert_eq!(said(role_add("r")), Ok(()));
    assert_eq!(said(role_add("r")), Err(E::RoleExists));
    assert_eq!(said(grant("no", Type::Read, "a", "")), Err(E::RoleNotFound));
    for (key, end) in [("", ""), ("b", "a"), ("a", "a"), ("", "\0")] {
        assert_eq!(said(grant("r", Type::Read, key, end)), Err(E::InvalidManagement), "{key}");
    }
    let nothing = AuthRoleGrantPermissionRequest { name: "r".into(), perm: None };
    let nothing = change(Change::RoleGrantPermission(nothing));
    assert_eq!(said(nothing), Err(E::PermissionNotGiven));
    assert_eq!(said(grant("r", Type::Read, "a", "b")), Ok(()));
    assert_eq!(said(grant("r", Type::Write, "a", "b")), Ok(()), "the kind is changed");
    assert_eq!(said(grant("r", Type::Read, "a", "")), Ok(()));
    assert_eq!(said(revoke("r", "a", "c")), Err(E::PermissionNotGranted));
    assert_eq!(said(revoke("r", "a", "")), Ok(()));
    assert_eq!(said(revoke_role("root", "r")), Err(E::RoleNotGranted));
    assert_eq!(said(user_delete("ann")), Err(E::UserNotFound));
    assert_eq!(said(role_delete("no")), Err(E::RoleNotFound));
    let permissions = bench.reader.auth().permissions("r").unwrap();
    let shape: Vec<_> = permissions.iter().map(|p| (p.perm_type(), text(&p.key))).collect();
    assert_eq!(shape, [(Type::Write, "a".to_owned())]);

    // once it counts, nobody can lock everybody out
    bench.run(role_add("root")).unwrap();
    bench.run(enable()).unwrap();
    let mut said = |request| kind(bench.by("root", request));
    assert_eq!(said(user_delete("root")), Err(E::InvalidManagement));
    assert_eq!(said(revoke_role("root", "root")), Err(E::InvalidManagement));
    assert_eq!(said(role_delete("root")), Err(E::InvalidManagement));
    assert_eq!(said(disable()), Ok(()));
    assert_eq!(said(user_delete("root")), Ok(()));
}

#[test]
fn the_revision_grows_with_every_change_but_enabling() {
    let mut bench = Bench::new();
    assert_eq!(bench.reader.auth().revision(), 1);
    let mut after = |request| {
        let _ = bench.run(request);
        bench.reader.auth().revision()
    };
    assert_eq!(after(user_add("root")), 2);
    assert_eq!(after(user_add("root")), 2, "refused");
    assert_eq!(after(grant_role("root", "root")), 3);
    assert_eq!(after(grant_role("root", "root")), 3, "nothing changed");
    assert_eq!(after(enable()), 3);
    assert_eq!(kind(bench.by("root", disable())), Ok(()));
    assert_eq!(bench.reader.auth().revision(), 4);
}

#[test]
fn what_a_user_may_touch() {
    let mut bench = world();
    bench.by("root", put("a1", "x")).unwrap();
    bench.by("root", put("c1", "x")).unwrap();
    let read = |key: &str, end: &str| Request::Range(range(key, end));
    assert!(bench.by("reader", read("a1", "")).is_ok());
    assert!(bench.by("reader", read("a", "b")).is_ok());
    assert_eq!(bench.by("reader", read("a", "c")), denied());
    assert_eq!(bench.by("reader", read("c1", "")), denied());
    assert_eq!(bench.by("reader", put("a1", "y")), denied());
    assert_eq!(bench.by("writer", read("a1", "")), denied());
    assert!(bench.by("writer", put("a1", "y")).is_ok());
    assert_eq!(bench.by("writer", put("c1", "y")), denied());
    let with_prev = Request::Put(PutRequest { prev_kv: true, ..put_request("a1", "z") });
    assert_eq!(bench.by("writer", with_prev), denied(), "the pair before is a read");
    assert_eq!(bench.by("writer", delete("a", "c")), denied());
    let with_prev =
        Request::DeleteRange(DeleteRangeRequest { prev_kv: true, ..delete_request("a1", "") });
    assert_eq!(bench.by("writer", with_prev), denied());
    assert!(bench.by("writer", delete("a1", "")).is_ok());

    let compare = |key: &str| Compare {
        target: CompareTarget::Version as i32,
        key: bytes(key),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    };
    let txn = |compare: Vec<Compare>, success, failure| {
        Request::Txn(TxnRequest { compare, success, failure })
    };
    assert_eq!(bench.by("writer", txn(vec![compare("a1")], vec![], vec![])), denied());
    assert!(bench.by("reader", txn(vec![compare("a1")], vec![op_range("a1", "")], vec![])).is_ok());
    let either = txn(vec![], vec![op_range("a1", "")], vec![op_put("a1", "x")]);
    assert_eq!(bench.by("reader", either), denied(), "the branch not taken counts too");
    let nested = txn(vec![], vec![op_txn(always(vec![op_put("c1", "x")]))], vec![]);
    assert_eq!(bench.by("writer", nested), denied());
    assert_eq!(bench.get("c1").unwrap().0, "x", "nothing of it was done");
}

#[test]
fn whoever_says_nothing_does_nothing() {
    let mut bench = world();
    for request in [
        put("a1", "x"),
        delete("a1", ""),
        Request::Range(range("a1", "")),
        Request::Txn(always(vec![])),
        Request::Txn(always(vec![op_put("a1", "x")])),
        Request::Compact(CompactionRequest { revision: 1, physical: false }),
        Request::LeaseGrant(LeaseGrantRequest { id: 1, ttl: 10 }),
        Request::LeaseRevoke(LeaseRevokeRequest { id: 1 }),
        user_add("eve"),
        disable(),
    ] {
        assert_eq!(kind(bench.run(request.clone())), Err(AuthError::UserEmpty), "{request:?}");
        let nobody = kind(bench.by("eve", request.clone()));
        assert!(
            matches!(nobody, Err(AuthError::PermissionDenied | AuthError::UserNotFound)),
            "{request:?}: {nobody:?}"
        );
    }
    assert!(bench.reader.auth().enabled());
    // members among themselves are not asked
    let claim = bench.entry(&[encode_claim()]).remove(0).unwrap();
    let Reply::LessorClaim(claim) = claim else { panic!("{claim:?}") };
    assert!(bench.entry(&[encode_expire(vec![1], claim)]).remove(0).is_ok());
}

#[test]
fn a_lease_is_theirs_who_may_write_its_keys() {
    let mut bench = world();
    bench.by("root", Request::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 10 })).unwrap();
    assert!(bench.by("writer", put_with("a1", "x", 7)).is_ok());
    bench.by("root", put_with("c1", "x", 7)).unwrap();
    assert_eq!(bench.by("writer", put_with("a2", "x", 7)), denied(), "c1 hangs on it");
    let revoke = Request::LeaseRevoke(LeaseRevokeRequest { id: 7 });
    assert_eq!(bench.by("writer", revoke.clone()), denied());
    bench.by("root", delete("c1", "")).unwrap();
    assert!(bench.by("writer", revoke).is_ok());
    assert_eq!(bench.get("a1"), None);
}

#[test]
fn who_was_somebody_before_is_not_believed() {
    let mut bench = world();
    let old = bench.reader.auth().revision();
    // permissions may change without anybody logging in again
    bench.by("root", grant("write-a", Type::Write, "c", "")).unwrap();
    assert!(bench.by_at("writer", old, put("c", "x")).is_ok());
    let (name, hashed_password) = ("writer".into(), HASH.into());
    let password = AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() };
    bench.by("root", change(Change::UserChangePassword(password))).unwrap();
    assert_eq!(kind(bench.by_at("writer", old, put("c", "y"))), Err(AuthError::OldRevision));
    assert!(bench.by("writer", put("c", "y")).is_ok());

    let old = bench.reader.auth().revision();
    bench.by("root", user_delete("writer")).unwrap();
    bench.by("root", user_add("writer")).unwrap();
    bench.by("root", grant_role("writer", "write-a")).unwrap();
    assert_eq!(kind(bench.by_at("writer", old, put("c", "z"))), Err(AuthError::OldRevision));
}

#[test]
fn who_logs_in_by_certificate_alone_has_no_password() {
    let mut bench = Bench::new();
    let options = Some(UserAddOptions { no_password: true });
    let hashed_password = HASH.to_owned();
    let add = AuthUserAddRequest {
        name: "svc/iam".into(),
        hashed_password,
        options,
        ..Default::default()
    };
    bench.run(change(Change::UserAdd(add))).unwrap();
    bench.run(user_add("ann")).unwrap();
    let auth = bench.reader.auth();
    assert_eq!(auth.user("svc/iam").unwrap().password(), None);
    assert_eq!(auth.user("ann").unwrap().password(), Some(&bytes("hash")));
}

/// etcd's bug 14571: members judged by what each of them knew, and went apart. Here the log alone
/// decides: the same entries give the same answers and the same state, whatever was applied together
/// and however often a member started anew in between.
#[test]
fn bug_14571_members_refuse_alike() {
    let mut script = Vec::new();
    let by = |user: &str, at: u64, request| {
        let principal = Some(Principal { user: user.into(), auth_revision: at });
        encode_as(principal, request)
    };
    for round in 0..40u64 {
        let granted = round % 3 == 0;
        let permission = match granted {
            true => grant("write-a", Type::Write, "k", ""),
            false => revoke("write-a", "k", ""),
        };
        script.push(by("writer", 9, put("k", &format!("{round}a"))));
        script.push(by("root", 9, permission));
        script.push(by("writer", 9, put("k", &format!("{round}b"))));
        script.push(by(
            "writer",
            9,
            Request::Txn(always(vec![op_put("k", "t"), op_put("a", "t")])),
        ));
        if round == 20 {
            script.push(by("root", 9, disable()));
            script.push(encode(put("k", "free")));
            script.push(by("writer", 9, put("z", "free")));
            script.push(encode(enable()));
        }
    }
    // one member applies entry by entry and starts anew, one in large batches
    let (mut slow, mut fast) = (world(), world());
    let (mut slowly, mut quickly) = (Vec::new(), Vec::new());
    for (at, command) in script.iter().enumerate() {
        slowly.extend(slow.entry(std::slice::from_ref(command)));
        if at % 50 == 49 {
            slow = slow.reopen();
        }
    }
    for commands in script.chunks(7) {
        quickly.extend(fast.entry(commands));
    }
    assert_eq!(slowly, quickly);
    let refused = slowly.iter().filter(|outcome| outcome.is_err()).count();
    assert!(refused > 20 && refused < slowly.len() - 20, "{refused} of {}", slowly.len());
    assert_eq!(slow.reader.hash().unwrap(), fast.reader.hash().unwrap());
}

#[test]
fn users_survive_a_restart_and_travel_with_a_snapshot() {
    let mut bench = world();
    bench.by("root", role_delete("read-a")).unwrap();
    bench.by("root", user_delete("reader")).unwrap();
    let before = bench.reader.auth();
    let hash = bench.reader.hash().unwrap();
    let mut bench = bench.reopen();
    let after = bench.reader.auth();
    assert!(after.enabled() && after.token_key() == "key");
    assert_eq!(after.revision(), before.revision());
    assert_eq!(after.users().collect::<Vec<_>>(), ["root", "writer"]);
    assert_eq!(after.roles().collect::<Vec<_>>(), ["write-a"]);
    assert_eq!(after.user("writer"), before.user("writer"));
    assert_eq!(bench.reader.hash().unwrap(), hash);

    let mut other = Bench::new();
    let mut epoch = other.reader.watch_auth();
    let mut pack = bench.reader.snapshot().unwrap();
    let mut chunks = std::iter::from_fn(|| consensus::SnapshotSource::next(&mut pack).transpose());
    other.store.replace(&mut chunks, |_| {}).unwrap();
    assert!(epoch.has_changed().unwrap() && other.reader.auth_enabled());
    epoch.borrow_and_update();
    assert_eq!(other.reader.hash().unwrap(), hash);
    assert_eq!(other.by("writer", put("x", "y")), denied());
    assert!(other.by("writer", put("a", "y")).is_ok());
    assert_eq!(bench.by("writer", put("x", "y")), denied());
}

#[test]
fn a_read_is_allowed_all_the_time_that_it_takes() {
    let bench = Bench::new();
    let bench = Arc::new(parking_lot::Mutex::new(bench));
    let reader = bench.lock().reader.clone();
    let who = Principal { user: "reader".into(), auth_revision: 99 };
    let check = |auth: &Auth| auth.check(Some(&who), Access::Read, &KeyRange::all());
    assert_eq!(reader.guarded(check, || Ok(1)), Ok(1), "nobody is asked");
    let mut begun = 0;
    let answer = reader.guarded(check, || {
        begun += 1;
        if begun == 1 {
            let mut bench = bench.lock();
            for request in [user_add("root"), grant_role("root", "root"), enable()] {
                bench.run(request).unwrap();
            }
        }
        Ok(begun)
    });
    assert_eq!(answer, Err(AuthError::PermissionDenied.into()), "it changed meanwhile");
    assert_eq!(begun, 1);
}
