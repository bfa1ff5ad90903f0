//! Users, roles, and who may do what once that is asked.

use anyhow::{Result, ensure};
use etcd_client::{
    Client, ConnectOptions, GetOptions, Permission, PermissionType, PutOptions,
    RoleRevokePermissionOptions, UserAddOptions,
};
use etcd_client_tests::{World, refusal};

/// Makes root and asks everybody from now on; root's client.
async fn enabled(world: &World) -> Result<Client> {
    let mut client = world.client().await?;
    client.user_add("root", "secret", None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.auth_enable().await?;
    world.client_with(ConnectOptions::new().with_user("root", "secret")).await
}

#[tokio::test]
async fn roles_and_their_permissions() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    client.role_add("r").await?;
    client.role_add("s").await?;
    ensure!(client.role_list().await?.roles() == ["r", "s"]);
    let twice = client.role_add("r").await;
    ensure!(refusal(twice)? == (9, "etcdserver: role name already exists".into()));
    let granted = [
        Permission::read("one"),
        Permission::write("p/").with_prefix(),
        Permission::read_write("x1").with_range_end("x5"),
        Permission::new(PermissionType::Read, "z").with_from_key(),
    ];
    for permission in &granted {
        client.role_grant_permission("r", permission.clone()).await?;
    }
    let known = client.role_get("r").await?.permissions();
    ensure!(known.len() == 4 && granted.iter().all(|one| known.contains(one)), "{known:?}");
    client.role_revoke_permission("r", "one", None).await?;
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    client.role_revoke_permission("r", "p/", Some(prefix)).await?;
    let range = RoleRevokePermissionOptions::new().with_range_end("x5");
    client.role_revoke_permission("r", "x1", Some(range)).await?;
    let known = client.role_get("r").await?.permissions();
    ensure!(known == granted[3..], "{known:?}");
    let again = client.role_revoke_permission("r", "one", None).await;
    let words = "etcdserver: permission is not granted to the role";
    ensure!(refusal(again)? == (9, words.into()));
    client.role_delete("r").await?;
    let gone = client.role_get("r").await;
    ensure!(refusal(gone)? == (9, "etcdserver: role name not found".into()));
    Ok(())
}

#[tokio::test]
async fn users_and_their_roles() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    client.user_add("u", "pw", None).await?;
    client.user_add("bare", "", Some(UserAddOptions::new().with_no_pwd())).await?;
    ensure!(client.user_list().await?.users() == ["bare", "u"]);
    let twice = client.user_add("u", "pw", None).await;
    ensure!(refusal(twice)? == (9, "etcdserver: user name already exists".into()));
    let unknown = client.user_grant_role("u", "r").await;
    ensure!(refusal(unknown)? == (9, "etcdserver: role name not found".into()));
    client.role_add("r").await?;
    client.user_grant_role("u", "r").await?;
    ensure!(client.user_get("u").await?.roles() == ["r"]);
    client.user_revoke_role("u", "r").await?;
    ensure!(client.user_get("u").await?.roles().is_empty());
    let again = client.user_revoke_role("u", "r").await;
    ensure!(refusal(again)? == (9, "etcdserver: role is not granted to the user".into()));
    client.user_change_password("u", "other").await?;
    client.user_delete("u").await?;
    let gone = client.user_get("u").await;
    ensure!(refusal(gone)? == (9, "etcdserver: user name not found".into()));
    Ok(())
}

#[tokio::test]
async fn login_and_what_it_allows() -> Result<()> {
    let world = World::start(1).await?;
    let mut root = enabled(&world).await?;
    root.user_add("reader", "pw", None).await?;
    root.role_add("reading").await?;
    root.role_grant_permission("reading", Permission::read("app/").with_prefix()).await?;
    root.user_grant_role("reader", "reading").await?;
    root.put("app/1", "x", None).await?;
    root.put("other", "x", None).await?;

    let denied = (7, "etcdserver: permission denied".to_owned());
    let as_reader = ConnectOptions::new().with_user("reader", "pw");
    let mut reader = world.client_with(as_reader.clone()).await?;
    ensure!(reader.get("app/", Some(GetOptions::new().with_prefix())).await?.count() == 1);
    ensure!(refusal(reader.get("other", None).await)? == denied);
    ensure!(refusal(reader.put("app/1", "y", None).await)? == denied);
    ensure!(refusal(reader.user_list().await)? == denied);
    ensure!(reader.user_get("reader").await?.roles() == ["reading"]);
    let mut nobody = world.client().await?;
    let empty = nobody.get("app/1", None).await;
    ensure!(refusal(empty)? == (3, "etcdserver: user name is empty".into()));
    let wrong = world.client_with(ConnectOptions::new().with_user("reader", "guess")).await;
    let words = "etcdserver: authentication failed, invalid user ID or password";
    let wrong = wrong.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(wrong.contains(words), "{wrong}");

    // a token ends with the password that it was given for; who logs in again goes on
    root.user_change_password("reader", "new").await?;
    let stale = refusal(reader.get("app/1", None).await)?;
    ensure!(stale == (16, "etcdserver: invalid auth token".into()), "{stale:?}");
    reader.update_user(Some(("reader".into(), "new".into()))).await?;
    reader.get("app/1", None).await?;
    let renewing = ConnectOptions::new().with_user("root", "secret").with_auto_token_refresh(true);
    let mut renewing = world.client_with(renewing).await?;
    root.user_change_password("root", "secret").await?;
    let prev = Some(PutOptions::new().with_prev_key());
    ensure!(renewing.put("app/1", "z", prev).await?.prev_key().is_some());
    renewing.refresh_token().await?;

    renewing.auth_disable().await?;
    nobody.get("app/1", None).await?;
    Ok(())
}
