//! What the rows take on a Postgres server's disk, and how well they keep: after a vacuum, with the indexes as they are and as they are
//! when they are made anew.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{Outcome, args::Plan, process::rss_kb, report::Line, schema::Schema};

/// Of which tables, by a pattern of their names, and what one row is.
const KINDS: [(&str, &str, &str); 3] = [
    ("messages", "^messages_\\d+$", "bytes/message"),
    ("inbox", "^inbox_\\d+$|^inbox_records_\\d+$", "bytes/entry"),
    ("ends", "^conversations$|^read_marks$|^inbox_ends$|^log_partitions$|^checkpoints$", "bytes/row"),
];

#[derive(Debug, Default)]
struct Space {
    rows: i64,
    table: i64,
    index: i64,
    /// The indexes when they are made anew.
    fresh: i64,
    dead_before: i64,
    dead: i64,
}

/// Prints it, and leaves the indexes made anew.
pub(crate) async fn print(plan: &Plan, schema: &Schema, case: &str) -> Outcome {
    let mut conn = schema.connect().await?;
    for (kind, tables, unit) in KINDS {
        let space = measure(&mut conn, tables).await?;
        if space.rows == 0 {
            continue;
        }
        Line::new(plan, "space", format!("{case}/{kind}"), unit)
            .rate(Some((space.table + space.index) as f64 / space.rows as f64), None)
            .rss_kb(rss_kb()?)
            .more("rows", space.rows)
            .more("table_bytes", space.table)
            .more("index_bytes", space.index)
            .more("index_bytes_anew", space.fresh)
            .more("dead_rows_before_vacuum", space.dead_before)
            .more("dead_rows", space.dead)
            .print(plan);
    }
    Ok(())
}

async fn measure(conn: &mut PgConnection, tables: &str) -> Outcome<Space> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname ~ $1",
    )
    .bind(tables)
    .fetch_all(&mut *conn)
    .await?;
    let mut space = Space::default();
    for name in names {
        space.dead_before += dead(conn, &name).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("VACUUM (ANALYZE) {name}"))).execute(&mut *conn).await?;
        space.dead += dead(conn, &name).await?;
        // Beside a record there are many entries, which are what is counted.
        if !name.starts_with("inbox_records") {
            // A row of the inbox has several entries.
            let many = if name.starts_with("inbox_") && name != "inbox_ends" {
                "+ coalesce(sum(cardinality(earlier)), 0)"
            } else {
                ""
            };
            let count = AssertSqlSafe(format!("SELECT (count(*) {many})::bigint FROM {name}"));
            space.rows += sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *conn).await?;
        }
        let (table, index) = sizes(conn, &name).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("REINDEX TABLE {name}"))).execute(&mut *conn).await?;
        space.table += table;
        space.index += index;
        space.fresh += sizes(conn, &name).await?.1;
    }
    Ok(space)
}

async fn sizes(conn: &mut PgConnection, name: &str) -> Outcome<(i64, i64)> {
    let sql = "SELECT pg_table_size($1::regclass), pg_indexes_size($1::regclass)";
    Ok(sqlx::query_as(sql).bind(name).fetch_one(conn).await?)
}

/// As the statistics have it.
async fn dead(conn: &mut PgConnection, name: &str) -> Outcome<i64> {
    let sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = $1::regclass";
    Ok(sqlx::query_scalar(sql).bind(name).fetch_one(conn).await?)
}
