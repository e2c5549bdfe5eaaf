//! Bringing a file's schema up to date.

use im_core::{Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::error::{BACKEND, corrupt, failed};

const OPERATION: &str = "open";

/// Script *n* (from 1) leads from schema version *n* − 1 to *n*. A script that was released never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_init.sql"),
    include_str!("../migrations/0002_buffered_boot_and_devices.sql"),
    include_str!("../migrations/0003_packed_inbox.sql"),
    include_str!("../migrations/0004_timelines_later.sql"),
];

/// `PRAGMA application_id` of our files: "IMDB".
const APPLICATION: i64 = 0x494d_4442;

/// The file's schema version; an error where it is not our file, or a newer one. Writes nothing.
pub(crate) async fn check(conn: &mut SqliteConnection) -> Result<usize> {
    let (application, version, objects) = sqlx::query_as::<_, (i64, i64, i64)>(
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
                (SELECT count(*) FROM sqlite_schema)",
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(failed(OPERATION))?;
    if objects > 0 && application != APPLICATION {
        return Err(corrupt(OPERATION, "the file is a SQLite database of another program"));
    }
    let done = usize::try_from(version).map_err(|_| corrupt(OPERATION, "negative schema version"))?;
    if done > MIGRATIONS.len() {
        let message = format!("the file has schema version {done}, this program knows {}", MIGRATIONS.len());
        return Err(Error::new(ErrorKind::NewerVersion, BACKEND, OPERATION, message));
    }
    Ok(done)
}

/// Runs the missing migrations, each in one transaction.
pub(crate) async fn migrate(conn: &mut SqliteConnection) -> Result<()> {
    let done = check(conn).await?;
    for (number, script) in MIGRATIONS.iter().enumerate().skip(done) {
        let sql = format!("BEGIN IMMEDIATE; {script}; PRAGMA user_version = {}; COMMIT", number + 1);
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await {
            // The connection is about to be closed, which rolls back as well.
            sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await.ok();
            return Err(failed(OPERATION)(error));
        }
    }
    Ok(())
}
