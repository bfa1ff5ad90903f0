//! `chainfire backup`, `restore` and `quota`: results on standard output, progress on the other.

pub(crate) mod quota;

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use chainfire::Settings;
use chainfire::backup::{
    self, Inspected, Origin, Progress, RestoreOptions, SaveOptions, Saved, Summary,
};
use clap::{Args, Subcommand, ValueEnum};
use identity::TlsFiles;
use rpc::Tls;
use settings::SettingsArgs;

use crate::SERVICE;

#[derive(Subcommand)]
pub(crate) enum Backup {
    /// Take a backup of a running member, or of a stopped member's data folder.
    Save(Box<Save>),
    /// Read a file to its end and check everything in it; answers by its exit code, too.
    Verify(File),
    /// Say what a file holds. Checks it, too.
    Show(File),
}

const SAVE_EXAMPLES: &str = "Examples:
  chainfire backup save monday.backup
      from the member of this machine, as /etc/plasma/chainfire.toml tells
  chainfire backup save --endpoint https://node01:2379 --tls ~/.plasma/tls monday.backup
  chainfire backup save --data-dir /var/lib/chainfire survivor.backup
      from a stopped member: everything that is in its log";

#[derive(Args)]
#[command(after_help = SAVE_EXAMPLES)]
pub(crate) struct Save {
    /// The file to write. It must not exist; it appears when it is whole and durable.
    file: PathBuf,
    #[command(flatten)]
    reach: Reach,
    /// Take what the member has, without asking a majority first.
    #[arg(long)]
    local: bool,
    /// The data folder of a member that does not run.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["endpoint", "user", "local"])]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    shown: Shown,
}

/// Which member is asked, and who asks.
#[derive(Args)]
struct Reach {
    /// The member to ask; without it, the one that the settings are of.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Who asks, where the cluster wants a user; the password comes from --password-file.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The file that holds the user's password.
    #[arg(long, value_name = "PATH", requires = "user")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A member that can be asked.
struct Reached {
    endpoint: String,
    tls: Option<Tls>,
    user: Option<(String, String)>,
}

/// The caller's certificate; without any of these, the one of the settings.
#[derive(Args)]
struct TlsArgs {
    /// A folder with cert.pem, key.pem and ca.pem.
    #[arg(long = "tls", value_name = "DIR", conflicts_with_all = ["cert", "key", "cacert"])]
    folder: Option<PathBuf>,
    /// The certificate.
    #[arg(long, value_name = "PATH", requires_all = ["key", "cacert"])]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "PATH", requires = "cert")]
    key: Option<PathBuf>,
    /// The cluster's CA.
    #[arg(long, value_name = "PATH", requires = "cert")]
    cacert: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct File {
    /// A file of `chainfire backup save` or `etcdctl snapshot save`.
    file: PathBuf,
    /// Take a copy of etcd's database that has no checksum.
    #[arg(long)]
    skip_hash_check: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args)]
struct Shown {
    /// How to print the result.
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

const RESTORE_EXAMPLES: &str = "Examples:
  chainfire restore --config /etc/plasma/chainfire.toml monday.backup
  chainfire restore --bump-revision 1000000000 --mark-compacted etcd.db
      from etcd's own snapshot, so that watches of before notice

The settings name the empty data folder and the new cluster's id, and say
initial = \"form\". Then start this member; the others join with empty folders.";

#[derive(Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct Restore {
    /// A file of `chainfire backup save` or `etcdctl snapshot save`, also of etcd.
    file: PathBuf,
    /// Add so much to the revision; needs --mark-compacted.
    #[arg(long, value_name = "N", default_value_t = 0)]
    bump_revision: i64,
    /// Count everything before as compacted, so that watches of before are cancelled.
    #[arg(long)]
    mark_compacted: bool,
    /// Allow the id of the cluster that the backup is of: none of its members may ever run again.
    #[arg(long)]
    keep_cluster_id: bool,
    /// Take a copy of etcd's database that has no checksum.
    #[arg(long)]
    skip_hash_check: bool,
    /// Leave etcd's users and roles behind, and with them what they protected.
    #[arg(long)]
    without_auth: bool,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    shown: Shown,
}

pub(crate) fn backup(command: &Backup, args: &SettingsArgs) -> anyhow::Result<()> {
    match command {
        Backup::Save(save) => save.run(args),
        Backup::Verify(file) => {
            let found = backup::inspect(&file.file, file.skip_hash_check)?;
            match file.shown.output {
                Output::Json => json(&found),
                Output::Table => {
                    println!("{}: whole, revision {}", file.file.display(), found.summary.revision);
                    Ok(())
                }
            }
        }
        Backup::Show(file) => {
            let found = backup::inspect(&file.file, file.skip_hash_check)?;
            match file.shown.output {
                Output::Json => json(&found),
                Output::Table => show(&found),
            }
        }
    }
}

impl Save {
    fn run(&self, args: &SettingsArgs) -> anyhow::Result<()> {
        let mut meter = Meter::new();
        let tell = move |progress| meter.tell(progress);
        if let Some(folder) = &self.data_dir {
            let (saved, term, index) = backup::save_stopped(folder, &self.file, tell)?;
            eprintln!("the member's log ends at term {term}, index {index}");
            return self.saved(&saved);
        }
        let Reached { endpoint, tls, user } = self.reach.resolve(args)?;
        let options = SaveOptions { endpoint, tls, user, local: self.local };
        let saved = runtime()?.block_on(backup::save(&options, &self.file, tell))?;
        self.saved(&saved)
    }

    fn saved(&self, saved: &Saved) -> anyhow::Result<()> {
        match self.shown.output {
            Output::Json => json(saved),
            Output::Table => {
                println!("saved     {}", saved.path.display());
                println!("bytes     {}", saved.bytes);
                println!("sha256    {}", saved.sha256);
                summary(&saved.summary);
                Ok(())
            }
        }
    }
}

impl Reach {
    fn resolve(&self, args: &SettingsArgs) -> anyhow::Result<Reached> {
        let files = match (&self.tls.folder, &self.tls.cert, &self.tls.key, &self.tls.cacert) {
            (Some(folder), ..) => Some(TlsFiles::in_dir(folder)),
            (_, Some(cert), Some(key), Some(ca)) => {
                Some(TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() })
            }
            _ => None,
        };
        let own = match &self.endpoint {
            Some(url) if files.is_some() || url.starts_with("http://") => None,
            _ => Some(load(args, &self.settings)?),
        };
        let endpoint = match (&self.endpoint, &own) {
            (Some(url), _) => url.clone(),
            (None, Some(own)) => own_url(own)?,
            (None, None) => bail!("no --endpoint, and no settings that tell one"),
        };
        let files = files.or_else(|| own.and_then(|own| own.tls));
        let tls = match files {
            Some(files) if endpoint.starts_with("https://") => Some(Tls::load(&files)?),
            _ => None,
        };
        let user = match (&self.user, &self.password_file) {
            (Some(name), Some(path)) => Some((name.clone(), settings::Secret::at(path).read()?)),
            _ => None,
        };
        Ok(Reached { endpoint, tls, user })
    }
}

/// The settings, whether they were named before or after the subcommand.
fn load(before: &SettingsArgs, after: &SettingsArgs) -> anyhow::Result<Settings> {
    let mut args = before.clone();
    args.config = after.config.clone().or(args.config);
    args.set.extend(after.set.iter().cloned());
    Ok(settings::load(SERVICE, &args)?)
}

/// Where the member of these settings listens, or is to listen.
fn own_url(own: &Settings) -> anyhow::Result<String> {
    let running = std::fs::read(own.data_dir.join("endpoints.json")).ok();
    let running =
        running.and_then(|text| serde_json::from_slice::<chainfire::Endpoints>(&text).ok());
    url_of(own, running.as_ref())
}

/// By where it listens while it runs. What listens everywhere has no address of its own: then it is
/// what is advertised, and in the certificate.
fn url_of(own: &Settings, running: Option<&chainfire::Endpoints>) -> anyhow::Result<String> {
    let bound = |address: Option<&String>| address.and_then(|text| text.parse().ok());
    let client = bound(running.and_then(|running| running.client.as_ref()));
    let plain = bound(running.and_then(|running| running.plaintext.as_ref()));
    match (client, plain, &own.client, &own.plaintext) {
        (None, Some(plain), ..) => Ok(format!("http://{}", reached(plain))),
        (client, _, Some(end), _) => {
            let listen: SocketAddr = client.unwrap_or(end.listen);
            let advertised = end.advertise.clone();
            let advertised =
                advertised.filter(|_| client.is_none() || listen.ip().is_unspecified());
            Ok(advertised.unwrap_or_else(|| format!("https://{}", reached(listen))))
        }
        (_, _, None, Some(plain)) => Ok(format!("http://{}", reached(plain.listen))),
        _ => bail!("the settings name no listener for clients"),
    }
}

/// An address under which a listener on this machine is reached.
fn reached(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

pub(crate) fn restore(command: &Restore, args: &SettingsArgs) -> anyhow::Result<()> {
    let settings = load(args, &command.settings)?;
    let options = RestoreOptions {
        bump_revision: command.bump_revision,
        mark_compacted: command.mark_compacted,
        keep_cluster_id: command.keep_cluster_id,
        skip_hash_check: command.skip_hash_check,
        without_auth: command.without_auth,
    };
    let restored = runtime()?.block_on(backup::restore(&command.file, &settings, options))?;
    match command.shown.output {
        Output::Json => json(&restored),
        Output::Table => {
            println!("restored  {}", settings.data_dir.display());
            println!("cluster   {}", settings.cluster_id);
            println!("member    {} ({})", settings.name, restored.member_id);
            println!("revision  {}", restored.revision);
            println!("compacted {}", or_none(restored.compacted));
            println!("keys      {}", restored.keys);
            println!("leases    {}", restored.leases);
            eprintln!("start this member, then let the others join with empty data folders");
            Ok(())
        }
    }
}

fn show(found: &Inspected) -> anyhow::Result<()> {
    println!(
        "file      {}",
        match found.origin {
            Origin::Backup => "a backup of chainfire",
            Origin::Snapshot => "a snapshot of chainfire, saved by etcdctl",
            Origin::Etcd => "a snapshot of etcd",
        }
    );
    println!("bytes     {}", found.bytes);
    println!("sha256    {}", found.sha256.as_deref().unwrap_or("none"));
    if let Some(head) = &found.head {
        println!("begun     {}", head.begun);
        println!("source    {}", head.source);
        println!("cluster   {}", head.cluster_id);
        println!(
            "complete  {}",
            match head.linearizable {
                true => "holds all that was acknowledged before it was begun",
                false => "holds what the member had",
            }
        );
    }
    summary(&found.summary);
    if found.etcd_auth {
        println!("auth      on; users and roles are not taken over");
    }
    for member in &found.members {
        let vote = if member.learner { "learner" } else { "voter" };
        println!("member    {} {} {vote} {}", member.id, member.name, member.peer_urls.join(","));
    }
    for section in &found.summary.sections {
        println!(
            "section   {}: {} records, {} bytes, sha256 {}",
            section.name, section.records, section.bytes, section.sha256
        );
    }
    Ok(())
}

fn summary(summary: &Summary) {
    println!("revision  {}", summary.revision);
    println!("compacted {}", or_none(summary.compacted));
    println!("keys      {} ({} bytes)", summary.keys, summary.live_bytes);
    println!("versions  {}", summary.versions);
    println!("leases    {}", summary.leases);
}

fn or_none(compacted: i64) -> String {
    if compacted < 0 { "none".to_owned() } else { compacted.to_string() }
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().context("threads cannot be started")
}

/// Says how far it is: often to a person, seldom to a log.
struct Meter {
    begun: Instant,
    last: Option<Instant>,
    person: bool,
}

impl Meter {
    fn new() -> Meter {
        Meter { begun: Instant::now(), last: None, person: std::io::stderr().is_terminal() }
    }

    fn tell(&mut self, progress: Progress) {
        let seldom = !self.person && self.last.unwrap_or(self.begun).elapsed().as_secs() < 10;
        if seldom {
            return;
        }
        self.last = Some(Instant::now());
        let share = match progress.about {
            0 => String::new(),
            about => format!(", about {} %", (progress.bytes * 100 / about).min(99)),
        };
        let line = format!("{} MiB{share}", progress.bytes >> 20);
        match self.person {
            true => eprint!("\r{line}\x1b[K"),
            false => eprintln!("{line}"),
        }
        let _ = std::io::stderr().flush();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.person && self.last.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_own_address_is_one_that_its_certificate_names() {
        let head = "name = \"a\"\ndata_dir = \"/x\"\n\
            cluster_id = \"018f0000-0000-7000-8000-000000000001\"\n\
            peer.listen = \"0.0.0.0:2380\"\n";
        let tls = "tls = { cert = \"c\", key = \"k\", ca = \"a\" }\n";
        let all = "client = { listen = \"0.0.0.0:2379\", advertise = \"https://node01:2379\" }";
        let one = "client = { listen = \"10.0.0.1:0\", advertise = \"https://node01:2379\" }";
        let bare = "client.listen = \"[::]:2379\"";
        let plain = "plaintext.listen = \"0.0.0.0:2379\"";
        let table = [
            (all, Some("0.0.0.0:2379"), None, "https://node01:2379"),
            (all, None, None, "https://node01:2379"),
            (one, Some("10.0.0.1:7777"), None, "https://10.0.0.1:7777"),
            (one, None, None, "https://node01:2379"),
            (bare, Some("[::]:2379"), None, "https://[::1]:2379"),
            (bare, None, None, "https://[::1]:2379"),
            (plain, None, Some("0.0.0.0:4000"), "http://127.0.0.1:4000"),
            (plain, None, None, "http://127.0.0.1:2379"),
        ];
        for (listener, client, plaintext, expected) in table {
            let text = format!("{head}{tls}{listener}\n");
            let path = std::path::Path::new("chainfire.toml");
            let own: Settings = settings::parse(path, &text).unwrap();
            let running = chainfire::Endpoints {
                client: client.map(str::to_owned),
                plaintext: plaintext.map(str::to_owned),
                ..Default::default()
            };
            let runs = client.is_some() || plaintext.is_some();
            let url = url_of(&own, runs.then_some(&running)).unwrap();
            assert_eq!(url, expected, "{listener} {client:?}");
        }
    }
}
