//! What a database is, and whether a chat can run on it.

use std::fmt;

use im_core::{Durability, Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    error::{BACKEND, failed, invalid},
    rows::Columns,
    schema,
};

const OPERATION: &str = "open";

/// The oldest version of the server.
const OLDEST: i32 = 14;

/// The tables that the nodes read and write.
const TABLES: &[&str] = &[
    "applied",
    "checkpoints",
    "conversations",
    "devices",
    "group_members",
    "inbox",
    "inbox_ends",
    "inbox_records",
    "leases",
    "log_epochs",
    "log_partitions",
    "messages",
    "meta",
    "nodes",
    "outbox",
    "outbox_refused",
    "read_marks",
    "sessions",
    "state_changes",
    "store_epochs",
    "user_states",
];

/// What [`PgBuilder::check`](crate::PgBuilder::check) finds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PgReport {
    /// The server's version, such as `15.18`.
    pub server: String,
    /// The database.
    pub database: String,
    /// The role that asked.
    pub role: String,
    /// The encoding of the database.
    pub encoding: String,
    /// The name of the schema.
    pub schema: String,
    /// The version of the schema; none where it has not been made.
    pub schema_version: Option<u32>,
    /// The version that this program brings about.
    pub program_version: u32,
    /// How many partitions the log has; none where that cannot be read.
    pub partitions: Option<u16>,
    /// How many refused sends [wait](crate::PgOutbox::refused) for the host; none where that cannot be read.
    pub refused_sends: Option<u64>,
    /// What an ack survives on this server.
    pub durability: Durability,
    /// Why [`PgBuilder::open`](crate::PgBuilder::open) refuses the database, each with what to do. Empty where it does not.
    pub problems: Vec<Error>,
}

impl PgReport {
    /// Whether the schema is there, as this program wants it.
    #[must_use]
    pub fn is_migrated(&self) -> bool {
        self.schema_version == Some(self.program_version)
    }

    /// Refuses for the first problem.
    pub(crate) fn refuse(&self) -> Result<()> {
        self.problems.first().cloned().map_or(Ok(()), Err)
    }
}

impl fmt::Display for PgReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "server      {}, database {} in {}", self.server, self.database, self.encoding)?;
        writeln!(f, "role        {}", self.role)?;
        match self.schema_version {
            Some(version) => write!(f, "schema      {}, version {version}", self.schema)?,
            None => write!(f, "schema      {}, not made yet", self.schema)?,
        }
        writeln!(f, "; this program knows {}", self.program_version)?;
        if let Some(partitions) = self.partitions {
            writeln!(f, "partitions  {partitions}")?;
        }
        if let Some(refused) = self.refused_sends {
            writeln!(f, "refused     {refused} sends of the host's")?;
        }
        writeln!(f, "acks        survive {}", self.durability)?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem     {problem}"))
    }
}

/// What can be asked of any server.
#[derive(Debug, Clone)]
struct Server {
    version_number: i32,
    version: String,
    database: String,
    role: String,
    encoding: String,
    synchronous_commit: String,
    isolation: String,
    is_read_only: bool,
    is_standby: bool,
    reaches_disk: bool,
    may_create_schema: bool,
    may_read_identity: bool,
}

impl Server {
    async fn ask(conn: &mut PgConnection) -> Result<Self> {
        let row = sqlx::query(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_database()::text, \
             current_user::text, current_setting('server_encoding'), current_setting('synchronous_commit'), \
             current_setting('default_transaction_isolation'), current_setting('default_transaction_read_only')::bool, \
             pg_is_in_recovery(), current_setting('fsync')::bool AND current_setting('full_page_writes')::bool, \
             has_database_privilege(current_database(), 'CREATE'), has_function_privilege('pg_control_system()', 'EXECUTE')",
        )
        .fetch_one(conn)
        .await
        .map_err(failed(OPERATION))?;
        let columns = Columns::new(&row, 0, OPERATION);
        let text = |column| columns.text(column).map(str::to_owned);
        Ok(Self {
            version_number: columns.get(0)?,
            version: text(1)?,
            database: text(2)?,
            role: text(3)?,
            encoding: text(4)?,
            synchronous_commit: text(5)?,
            isolation: text(6)?,
            is_read_only: columns.get(7)?,
            is_standby: columns.get(8)?,
            reaches_disk: columns.get(9)?,
            may_create_schema: columns.get(10)?,
            may_read_identity: columns.get(11)?,
        })
    }

    fn durability(&self) -> Durability {
        if self.reaches_disk { Durability::Synced } else { Durability::Buffered }
    }

    fn problems(&self) -> Vec<Error> {
        let Self { database, role, encoding, .. } = self;
        let mut problems = Vec::new();
        if self.version_number < OLDEST * 10_000 {
            let version = &self.version;
            problems.push(invalid(
                OPERATION,
                format!("the server is version {version}; {OLDEST} or newer is needed"),
            ));
        }
        if encoding != "UTF8" {
            let why = format!(
                "the database {database} is encoded in {encoding}: create another one with ENCODING 'UTF8' TEMPLATE template0"
            );
            problems.push(invalid(OPERATION, why));
        }
        if self.is_standby {
            let why = "the server is a standby and takes no writes: connect to the primary";
            problems.push(Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, why));
        }
        for (is_wrong, why, setting) in [
            (
                self.synchronous_commit == "off",
                "commits do not wait, so a crash of the server loses what was acked",
                "synchronous_commit = on",
            ),
            (
                self.isolation != "read committed",
                "transactions do not see what was committed while they waited for a lock",
                "default_transaction_isolation = 'read committed'",
            ),
            (self.is_read_only, "transactions cannot write", "default_transaction_read_only = off"),
        ] {
            if is_wrong {
                let how = format!("set it for the pool, or ALTER ROLE {role} SET {setting}");
                problems.push(invalid(OPERATION, format!("{why}; {setting} is needed: {how}")));
            }
        }
        if !self.may_read_identity {
            let why = format!(
                "the role {role} may not read the identity of the cluster: GRANT EXECUTE ON FUNCTION pg_control_system() TO {role}"
            );
            problems.push(denied(why));
        }
        problems
    }
}

/// The schema as the role sees it.
#[derive(Debug)]
struct Schema {
    oid: sqlx::postgres::types::Oid,
    may_use: bool,
    may_create: bool,
    has_version: bool,
}

impl Schema {
    async fn ask(conn: &mut PgConnection, name: &str) -> Result<Option<Self>> {
        let row = sqlx::query(
            "SELECT n.oid, has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'), \
             EXISTS (SELECT 1 FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'schema_version' \
             AND has_table_privilege(c.oid, 'SELECT')) FROM pg_namespace n WHERE n.nspname = $1",
        )
        .bind(name)
        .fetch_optional(conn)
        .await
        .map_err(failed(OPERATION))?;
        let schema = |columns: Columns<'_>| {
            Ok(Self {
                oid: columns.get(0)?,
                may_use: columns.get(1)?,
                may_create: columns.get(2)?,
                has_version: columns.get(3)?,
            })
        };
        row.as_ref().map(|row| schema(Columns::new(row, 0, OPERATION))).transpose()
    }

    /// The owners of tables of which the role is no member.
    async fn strange_owners(&self, conn: &mut PgConnection) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class c WHERE c.relnamespace = $1 \
             AND (c.relname = ANY($2) OR EXISTS (SELECT 1 FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent \
             WHERE i.inhrelid = c.oid AND p.relnamespace = $1 AND p.relname IN ('inbox', 'inbox_records'))) \
             AND c.relkind IN ('r', 'p') AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1",
        )
        .bind(self.oid)
        .bind(TABLES)
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))
    }
}

fn denied(why: String) -> Error {
    Error::new(ErrorKind::Denied, BACKEND, OPERATION, why)
}

/// Looks at a database by one connection.
pub(crate) async fn of(conn: &mut PgConnection, name: &str, quoted: &str) -> Result<PgReport> {
    let server = Server::ask(conn).await?;
    let mut report = PgReport {
        durability: server.durability(),
        problems: server.problems(),
        server: server.version,
        database: server.database,
        role: server.role,
        encoding: server.encoding,
        schema: name.to_owned(),
        schema_version: None,
        program_version: schema::known(),
        partitions: None,
        refused_sends: None,
    };
    match Schema::ask(conn, name).await? {
        Some(schema) => look_into(conn, &schema, quoted, &mut report).await?,
        None if server.may_create_schema => {}
        None => {
            let PgReport { role, database, .. } = &report;
            let why = format!(
                "there is no schema {quoted}, and the role {role} may not create it: let an operator migrate, \
                 or GRANT CREATE ON DATABASE {database} TO {role}"
            );
            report.problems.push(denied(why));
        }
    }
    Ok(report)
}

async fn look_into(
    conn: &mut PgConnection,
    schema: &Schema,
    quoted: &str,
    report: &mut PgReport,
) -> Result<()> {
    let role = report.role.clone();
    for (may, right) in [(schema.may_use, "USAGE"), (schema.may_create, "CREATE")] {
        if !may {
            let why = format!(
                "the role {role} has no {right} on the schema: GRANT {right} ON SCHEMA {quoted} TO {role}"
            );
            report.problems.push(denied(why));
        }
    }
    let owners = schema.strange_owners(conn).await?;
    for owner in owners {
        let why = format!("tables of the schema {quoted} belong to {owner}: GRANT {owner} TO {role}");
        report.problems.push(denied(why));
    }
    if !schema.may_use || !schema.has_version {
        return Ok(());
    }
    let version = AssertSqlSafe(format!("SELECT version FROM {quoted}.schema_version"));
    let version: i32 = sqlx::query_scalar(version).fetch_one(&mut *conn).await.map_err(failed(OPERATION))?;
    let version = version.unsigned_abs();
    report.schema_version = Some(version);
    if version > report.program_version {
        report.problems.push(schema::newer(version));
    } else if version == report.program_version && report.problems.is_empty() {
        let sql =
            format!("SELECT partitions, (SELECT count(*) FROM {quoted}.outbox_refused) FROM {quoted}.meta");
        let (partitions, refused): (i16, i64) =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_one(conn).await.map_err(failed(OPERATION))?;
        report.partitions = Some(partitions.unsigned_abs());
        report.refused_sends = Some(refused.unsigned_abs());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            version_number: 140_000,
            version: "14.0".into(),
            database: "chat".into(),
            role: "im".into(),
            encoding: "UTF8".into(),
            synchronous_commit: "on".into(),
            isolation: "read committed".into(),
            is_read_only: false,
            is_standby: false,
            reaches_disk: true,
            may_create_schema: false,
            may_read_identity: true,
        }
    }

    #[test]
    fn a_server_as_it_should_be() {
        assert!(server().problems().is_empty());
        assert_eq!(server().durability(), Durability::Synced);
        for synchronous_commit in ["local", "remote_write", "remote_apply"] {
            let server = Server { synchronous_commit: synchronous_commit.into(), ..server() };
            assert!(server.problems().is_empty());
        }
    }

    #[test]
    fn every_problem_has_its_kind_and_says_what_to_do() {
        let table = [
            (
                Server { version_number: 130_022, version: "13.22".into(), ..server() },
                ErrorKind::Invalid,
                "13.22; 14 or newer",
            ),
            (Server { encoding: "LATIN1".into(), ..server() }, ErrorKind::Invalid, "ENCODING 'UTF8'"),
            (Server { is_standby: true, ..server() }, ErrorKind::Unavailable, "connect to the primary"),
            (
                Server { synchronous_commit: "off".into(), ..server() },
                ErrorKind::Invalid,
                "ALTER ROLE im SET synchronous_commit = on",
            ),
            (
                Server { isolation: "serializable".into(), ..server() },
                ErrorKind::Invalid,
                "SET default_transaction_isolation = 'read committed'",
            ),
            (
                Server { is_read_only: true, ..server() },
                ErrorKind::Invalid,
                "SET default_transaction_read_only = off",
            ),
            (
                Server { may_read_identity: false, ..server() },
                ErrorKind::Denied,
                "GRANT EXECUTE ON FUNCTION pg_control_system() TO im",
            ),
        ];
        for (server, kind, what) in table {
            let problems = server.problems();
            assert_eq!(problems.len(), 1, "{server:?}");
            assert_eq!(problems[0].kind(), kind);
            assert!(problems[0].to_string().contains(what), "{}", problems[0]);
        }
    }

    #[test]
    fn a_server_that_does_not_write_to_the_disk_says_so() {
        assert_eq!(Server { reaches_disk: false, ..server() }.durability(), Durability::Buffered);
    }
}
