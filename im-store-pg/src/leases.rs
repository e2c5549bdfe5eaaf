//! Leases, by the server's clock.

use std::time::Duration;

use async_trait::async_trait;
use im_core::{Leases, NodeId, Result};

use crate::{PgLog, connect::now, error::failed};

#[async_trait]
impl Leases for PgLog {
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool> {
        let sql = self.0.sql(concat!(
            "INSERT INTO {im}.leases AS known (name, node, until) VALUES ($1, $2, ",
            now!(),
            " + $3) ON CONFLICT (name) DO UPDATE SET node = excluded.node, until = excluded.until \
             WHERE known.node = excluded.node OR known.until < ",
            now!()
        ));
        let claimed = sqlx::query(sql)
            .bind(name)
            .bind(node.as_str())
            .bind(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 2))
            .execute(&self.0.pool)
            .await
            .map_err(failed("leases.claim"))?;
        Ok(claimed.rows_affected() > 0)
    }

    async fn release(&self, name: &str, node: &NodeId) -> Result<()> {
        sqlx::query(self.0.sql("DELETE FROM {im}.leases WHERE name = $1 AND node = $2"))
            .bind(name)
            .bind(node.as_str())
            .execute(&self.0.pool)
            .await
            .map(drop)
            .map_err(failed("leases.release"))
    }
}
