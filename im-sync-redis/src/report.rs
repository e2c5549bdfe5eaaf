//! What the servers are: read at the start, and what an ack survives by it.

use std::time::Duration;

use fred::{
    clients::Client,
    interfaces::{ClientLike, ClusterInterface, ConfigInterface},
    types::{InfoKind, config::Options},
};
use im_core::{Durability, Error, ErrorKind, Incarnation, Result};

use crate::error::{BACKEND, failed};

/// The oldest server that is used: scripts read time and write, and ranges of streams exclude their beginning.
const OLDEST: (u32, u32) = (6, 2);
/// How much acked data may be missing where a server came back with what it had synced, every second.
const SYNCED_EACH_SECOND: Duration = Duration::from_secs(10);
/// The same where the system syncs when it likes, within about 30 s, or Sentinel lets a copy take over: it waits for 30 s by default, and
/// the old master may answer meanwhile.
const LONG: Duration = Duration::from_secs(60);
/// How long a cluster waits by default until a copy takes over. <https://redis.io/docs/latest/operate/oss_and_stack/management/scaling/>
const NODE_TIMEOUT: Duration = Duration::from_secs(15);

/// What the servers are, as they said when the backend was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisReport {
    /// The version of the oldest of them.
    pub version: String,
    /// How many masters share the keys.
    pub masters: usize,
    /// Whether a copy can take over from one of them.
    pub has_replicas: bool,
    /// When the append-only file is synced: `always`, `everysec`, `no`; none where there is no such file, or the server does not say.
    pub appendfsync: Option<String>,
    /// What an acked message survives while no copy takes over.
    pub durability: Durability,
    /// How much acked data another incarnation may lack.
    pub loss_window: Duration,
}

impl RedisReport {
    /// Whether all of them have channels of shards, which came with Redis 7.
    pub(crate) fn has_shard_channels(&self) -> bool {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        major.is_some_and(|major| major >= 7)
    }
}

/// What one server says of itself.
#[derive(Debug, Default)]
struct Server {
    info: String,
    appendfsync: Option<String>,
    /// How long the others of a cluster wait for it.
    node_timeout: Option<Duration>,
    /// It is to refuse writes while it has too few copies (`min-replicas-to-write`).
    wants_replicas: bool,
}

impl Server {
    fn field(&self, name: &str) -> &str {
        let line = self.info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }

    fn version(&self) -> Option<(u32, u32)> {
        // Valkey says 7.2.4 here, what it came from, and its own version elsewhere.
        let mut numbers = self.field("redis_version").split('.').map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }

    /// Why it cannot be used.
    fn refusal(&self) -> Option<(ErrorKind, String)> {
        let version = self.field("redis_version");
        if self.version().is_none_or(|version| version < OLDEST) {
            return Some((ErrorKind::Invalid, format!("Redis {version}; 6.2 is needed")));
        }
        if self.field("role") != "master" {
            return Some((ErrorKind::Unavailable, format!("the server is a {}", self.field("role"))));
        }
        let policy = self.field("maxmemory_policy");
        (policy != "noeviction").then(|| {
            let why = format!(
                "maxmemory-policy is {policy}: it would lose messages where memory is short; set noeviction"
            );
            (ErrorKind::Invalid, why)
        })
    }

    fn durability(&self) -> Durability {
        match (self.field("aof_enabled"), self.appendfsync.as_deref()) {
            ("1", Some("always")) => Durability::Synced,
            ("1", _) => Durability::Buffered,
            _ => Durability::Memory,
        }
    }
}

/// The masters of a cluster; none stands for the one server.
fn masters(client: &Client) -> Vec<Option<fred::types::config::Server>> {
    match client.cached_cluster_state() {
        Some(state) => state.unique_primary_nodes().into_iter().map(Some).collect(),
        None => vec![None],
    }
}

fn on(server: Option<fred::types::config::Server>) -> Options {
    Options { cluster_node: server, ..Options::default() }
}

/// Asks all masters.
///
/// # Errors
/// When one cannot be asked, or cannot be used.
pub(crate) async fn of(client: &Client) -> Result<RedisReport> {
    let mut servers = Vec::new();
    for master in masters(client) {
        let client = client.with_options(&on(master));
        let mut info = String::new();
        for kind in [InfoKind::Server, InfoKind::Memory, InfoKind::Persistence, InfoKind::Replication] {
            info += &client.info::<String>(Some(kind)).await.map_err(failed("open"))?;
        }
        // Where the command is forbidden the weaker is taken.
        let appendfsync = client.config_get::<Vec<String>, _>("appendfsync").await.ok();
        let appendfsync = appendfsync.and_then(|pair| pair.into_iter().nth(1));
        let node_timeout = client.config_get::<Vec<String>, _>("cluster-node-timeout").await.ok();
        let wanted = client.config_get::<Vec<String>, _>("min-replicas-to-write").await.ok();
        let wants_replicas = wanted.is_some_and(|pair| pair.get(1).is_some_and(|number| number != "0"));
        let node_timeout = node_timeout.and_then(|pair| pair.get(1)?.parse().ok()).map(Duration::from_millis);
        servers.push(Server { info, appendfsync, node_timeout, wants_replicas });
    }
    if let Some((kind, why)) = servers.iter().find_map(Server::refusal) {
        return Err(Error::new(kind, BACKEND, "open", why));
    }
    if servers.iter().any(|server| server.wants_replicas && server.version() < Some((7, 0))) {
        tracing::warn!(
            "before Redis 7 min-replicas-to-write does not hold for scripts: a master that is cut off goes on acking"
        );
    }
    let oldest = servers.iter().min_by_key(|server| server.version());
    let weakest = servers.iter().min_by_key(|server| server.durability());
    let has_replicas = client.is_clustered()
        || client.uses_sentinels()
        || servers.iter().any(|server| server.field("connected_slaves") != "0");
    let durability = weakest.map_or(Durability::Memory, Server::durability);
    if durability == Durability::Memory && servers.len() > 1 {
        let why = "several masters without an append-only file: one would come back older than the others; set appendonly yes";
        return Err(Error::new(ErrorKind::Invalid, BACKEND, "open", why));
    }
    let appendfsync = weakest
        .filter(|server| server.field("aof_enabled") == "1")
        .and_then(|server| server.appendfsync.clone());
    let slowest = servers.iter().map(|server| server.node_timeout.unwrap_or(NODE_TIMEOUT)).max();
    let loss_window = match durability {
        _ if client.uses_sentinels() || appendfsync.as_deref() == Some("no") => LONG,
        // The old master may answer until then, and as long again until a worker hears of the new one.
        _ if client.is_clustered() => SYNCED_EACH_SECOND.max(slowest.unwrap_or(NODE_TIMEOUT) * 2),
        Durability::Synced if !has_replicas => Duration::ZERO,
        _ if has_replicas => LONG,
        _ => SYNCED_EACH_SECOND,
    };
    Ok(RedisReport {
        version: oldest.map(|server| server.field("redis_version").to_owned()).unwrap_or_default(),
        masters: servers.len(),
        has_replicas,
        appendfsync,
        durability,
        loss_window,
    })
}

/// The identity of the data now: of each master its run id, which a restart changes, and its replication id, which changes when it takes
/// over or is put back.
///
/// # Errors
/// When a master cannot be asked.
pub(crate) async fn incarnation(client: &Client, name: &str, operation: &'static str) -> Result<Incarnation> {
    let runs = masters(client).into_iter().map(|master| async {
        let client = client.with_options(&on(master));
        let info = async |kind| client.info::<String>(Some(kind)).await.map_err(failed(operation));
        let (server, replication) = futures::try_join!(info(InfoKind::Server), info(InfoKind::Replication))?;
        let server = Server { info: server + &replication, ..Server::default() };
        let (run, data) = (server.field("run_id"), server.field("master_replid"));
        if run.is_empty() || data.is_empty() {
            return Err(Error::new(
                ErrorKind::Other,
                BACKEND,
                operation,
                "a server does not say which it is",
            ));
        }
        if server.field("role") != "master" {
            return Err(Error::new(
                ErrorKind::Unavailable,
                BACKEND,
                operation,
                "a server is a master no more",
            ));
        }
        Ok(format!("{run}.{data}"))
    });
    let mut runs = futures::future::try_join_all(runs).await?;
    runs.sort_unstable();
    Ok(Incarnation::new(format!("redis/{name}/{}", runs.join("+"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &str, appendfsync: Option<&str>) -> Server {
        let good = "redis_version:7.0.15\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n";
        Server {
            info: format!("{info}{good}"),
            appendfsync: appendfsync.map(str::to_owned),
            ..Server::default()
        }
    }

    #[test]
    fn who_is_old_evicts_or_copies_is_refused() {
        for (info, kind, word) in [
            ("redis_version:6.0.16\r\n", ErrorKind::Invalid, "6.0.16"),
            ("redis_version:\r\n", ErrorKind::Invalid, "6.2"),
            ("role:slave\r\n", ErrorKind::Unavailable, "slave"),
            ("maxmemory_policy:allkeys-lru\r\n", ErrorKind::Invalid, "allkeys-lru"),
            ("maxmemory_policy:volatile-ttl\r\n", ErrorKind::Invalid, "volatile-ttl"),
        ] {
            let (found, why) = server(info, None).refusal().unwrap();
            assert!(found == kind && why.contains(word), "{info}: {why}");
        }
        assert_eq!(server("redis_version:6.2.0\r\n", None).refusal(), None);
        assert_eq!(server("redis_version:10.0.0\r\n", None).refusal(), None);
    }

    #[test]
    fn an_ack_survives_what_the_file_does() {
        for (info, appendfsync, durability) in [
            ("aof_enabled:1\r\n", Some("always"), Durability::Synced),
            ("aof_enabled:1\r\n", Some("everysec"), Durability::Buffered),
            ("aof_enabled:1\r\n", None, Durability::Buffered),
            ("aof_enabled:0\r\n", Some("always"), Durability::Memory),
        ] {
            assert_eq!(server(info, appendfsync).durability(), durability, "{info} {appendfsync:?}");
        }
    }
}
