//! Bringing the schema up to date, by any number of nodes at once.

use im_core::{Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    error::{BACKEND, failed},
    pool::BEGIN,
};

const OPERATION: &str = "open";

/// Script *n* (from 1) leads from schema version *n* − 1 to *n*. A script that was released never changes. They name no schema: it
/// is the search path of their transaction.
const MIGRATIONS: &[&str] =
    &[include_str!("../migrations/0001_init.sql"), include_str!("../migrations/0002_packed_inbox.sql")];

/// Names the lock under which nodes migrate, together with the schema's name.
const LOCK: &str = "im-store-pg";

/// Runs the missing migrations, all in one transaction.
pub(crate) async fn migrate(
    conn: &mut PgConnection,
    schema: &str,
    quoted: &str,
    partitions: u16,
) -> Result<()> {
    let mut transaction = conn.begin_with(BEGIN).await.map_err(failed(OPERATION))?;
    run(&mut transaction, schema, quoted, partitions).await?;
    transaction.commit().await.map_err(failed(OPERATION))
}

async fn run(conn: &mut PgConnection, schema: &str, quoted: &str, partitions: u16) -> Result<()> {
    let fail = failed(OPERATION);
    // Until the end of the transaction: who comes second finds everything done. It may take longer than a usual statement.
    sqlx::query(
        "SELECT set_config('statement_timeout', '60s', true), set_config('lock_timeout', '60s', true)",
    )
    .execute(&mut *conn)
    .await
    .map_err(&fail)?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))")
        .bind(LOCK)
        .bind(schema)
        .execute(&mut *conn)
        .await
        .map_err(&fail)?;
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("{quoted}.schema_version"))
        .fetch_one(&mut *conn)
        .await
        .map_err(&fail)?;
    if !is_there {
        create(conn, quoted).await?;
    }
    let version = AssertSqlSafe(format!("SELECT version FROM {quoted}.schema_version"));
    let done: i32 = sqlx::query_scalar(version).fetch_one(&mut *conn).await.map_err(&fail)?;
    let done = usize::try_from(done).unwrap_or_default();
    if done > MIGRATIONS.len() {
        return Err(newer(done as u32));
    }
    if done == MIGRATIONS.len() {
        return Ok(());
    }
    let path = AssertSqlSafe(format!("SET LOCAL search_path TO {quoted}"));
    sqlx::raw_sql(path).execute(&mut *conn).await.map_err(&fail)?;
    for script in &MIGRATIONS[done..] {
        sqlx::raw_sql(*script).execute(&mut *conn).await.map_err(&fail)?;
    }
    if done == 0 {
        fill(conn, partitions).await?;
    }
    sqlx::query("UPDATE schema_version SET version = $1")
        .bind(MIGRATIONS.len() as i32)
        .execute(conn)
        .await
        .map(drop)
        .map_err(&fail)
}

/// The schema's version that this program brings about.
pub(crate) fn known() -> u32 {
    MIGRATIONS.len() as u32
}

/// The refusal of a schema that a newer program has written.
pub(crate) fn newer(version: u32) -> Error {
    let message = format!(
        "the schema has version {version}, this program knows {}: run a newer version of the program",
        known()
    );
    Error::new(ErrorKind::NewerVersion, BACKEND, OPERATION, message)
}

async fn create(conn: &mut PgConnection, quoted: &str) -> Result<()> {
    // To create one if it is not there takes the right to create one, also where it is there.
    let is_there: bool = sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL")
        .bind(quoted)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed(OPERATION))?;
    let make = if is_there { String::new() } else { format!("CREATE SCHEMA {quoted};") };
    let sql = format!(
        "{make} CREATE TABLE {quoted}.schema_version (version int NOT NULL); \
         INSERT INTO {quoted}.schema_version VALUES (0)"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop).map_err(failed(OPERATION))
}

/// A new name of the data.
fn name() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..12].to_owned()
}

/// Gives the data another name, and by it another incarnation.
pub(crate) async fn rename(conn: &mut PgConnection, quoted: &str) -> Result<()> {
    let sql = AssertSqlSafe(format!("UPDATE {quoted}.meta SET name = $1"));
    sqlx::query(sql).bind(name()).execute(conn).await.map(drop).map_err(failed(OPERATION))
}

/// What a new schema begins with.
async fn fill(conn: &mut PgConnection, partitions: u16) -> Result<()> {
    sqlx::query("INSERT INTO meta (one, name, partitions) VALUES (1, $1, $2)")
        .bind(name())
        .bind(partitions.cast_signed())
        .execute(&mut *conn)
        .await
        .map_err(failed(OPERATION))?;
    for part in 0..partitions {
        let sql = format!(
            "CREATE TABLE messages_{part} PARTITION OF messages FOR VALUES IN ({part}); \
             INSERT INTO log_partitions (partition) VALUES ({part})"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.map_err(failed(OPERATION))?;
    }
    Ok(())
}
