//! Auth in the engine: `auth/state`, `auth/user/<name>`, `auth/role/<name>` in the space `s`. Each
//! record begins with its format.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::authpb::Role;
use api::chainfire_internal::{AuthState, AuthUser};
use bytes::Bytes;
use engine::{Engine, Order};
use prost::Message;

use super::Auth;
use super::change::compiled;
use crate::store::StoreError;
use crate::store::layout::{Spaces, damaged};

const STATE: &[u8] = b"auth/state";
const USERS: &[u8] = b"auth/user/";
const ROLES: &[u8] = b"auth/role/";
const FORMAT: u8 = 1;
/// Bytes of the key that signs tokens.
pub(crate) const TOKEN_KEY: usize = 32;

/// One record that is written; none is one that goes.
pub(in crate::store) type Written = (Bytes, Option<Bytes>);

fn encode(message: &impl Message) -> Bytes {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    out.push(FORMAT);
    out.extend_from_slice(&message.encode_to_vec());
    out.into()
}

fn decode<M: Message + Default>(record: &Bytes, what: &str) -> Result<M, StoreError> {
    if record.first() != Some(&FORMAT) {
        return Err(damaged(what));
    }
    M::decode(record.slice(1..)).map_err(|_| damaged(what))
}

fn key(prefix: &[u8], name: &str) -> Bytes {
    [prefix, name.as_bytes()].concat().into()
}

/// What differs in the engine between two states.
pub(in crate::store) fn changed(before: &Auth, after: &Auth) -> Vec<Written> {
    let state = AuthState {
        enabled: after.enabled,
        revision: after.revision,
        token_key: after.token_key.clone(),
    };
    let mut all = vec![(Bytes::from_static(STATE), Some(encode(&state)))];
    differing(&before.users, &after.users, |name, user| {
        all.push((key(USERS, name), user.map(|user| encode(&user.kept))));
    });
    differing(&before.roles, &after.roles, |name, role| {
        all.push((key(ROLES, name), role.map(|role| encode(role.as_ref()))));
    });
    all
}

/// Calls with every name whose entry is another, or is gone.
fn differing<T>(
    before: &BTreeMap<String, Arc<T>>,
    after: &BTreeMap<String, Arc<T>>,
    mut each: impl FnMut(&str, Option<&Arc<T>>),
) {
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        each(name, None);
    }
    for (name, now) in after {
        if !before.get(name).is_some_and(|was| Arc::ptr_eq(was, now)) {
            each(name, Some(now));
        }
    }
}

/// Everything, in an order that depends on the state alone: for checksums.
pub(in crate::store) fn whole(auth: &Auth) -> Vec<Written> {
    changed(&Auth::default(), auth)
}

/// With another key that signs tokens, if there was one: those that are out are good for nothing
/// where the records are taken to.
pub(in crate::store) fn rekey(
    small: &mut BTreeMap<Bytes, Bytes>,
    token_key: [u8; TOKEN_KEY],
) -> Result<(), StoreError> {
    let Some(record) = small.get_mut(STATE) else { return Ok(()) };
    let mut state: AuthState = decode(record, "auth state")?;
    if !state.token_key.is_empty() {
        state.token_key = Bytes::copy_from_slice(&token_key);
        *record = encode(&state);
    }
    Ok(())
}

/// Reads auth back.
pub(in crate::store) fn load(engine: &Engine, spaces: Spaces) -> Result<Auth, StoreError> {
    let mut auth = Auth::default();
    let Some(state) = engine.get(spaces.small, STATE)? else { return Ok(auth) };
    let state: AuthState = decode(&state, "auth state")?;
    auth.enabled = state.enabled;
    auth.revision = state.revision;
    auth.token_key = Bytes::copy_from_slice(&state.token_key);
    for pair in engine.iter(spaces.small, engine::prefix(ROLES), Order::Ascending) {
        let (stored, record) = pair?;
        let role: Role = decode(&record, "role")?;
        let name = String::from_utf8(stored[ROLES.len()..].to_vec());
        auth.roles.insert(name.map_err(|_| damaged("role"))?, Arc::new(role));
    }
    for pair in engine.iter(spaces.small, engine::prefix(USERS), Order::Ascending) {
        let user: AuthUser = decode(&pair?.1, "user")?;
        let (name, user) = compiled(user, &auth.roles).ok_or_else(|| damaged("user"))?;
        auth.users.insert(name, Arc::new(user));
    }
    Ok(auth)
}
