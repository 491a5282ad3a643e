//! A private PostgreSQL with outboxes in it.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::demo::relay_process::RelayProcess;

use crate::Failure;
use crate::usage::processor_time_with_children;

/// What every server is set up with beside PostgreSQL's own defaults: enough memory
/// and log that neither a checkpoint nor the disk is what is measured.
const SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    ("wal_level", "replica"),
    ("synchronous_commit", "on"),
];

/// Payloads of which those of a backlog are made: random, so that they do not
/// compress to nothing.
const POOL: u32 = 512;

/// Rows a backlog's transaction has: what a busy service publishes, not one load.
const ROWS_PER_TRANSACTION: u64 = 1000;

/// The server.
#[derive(Debug)]
pub(crate) struct Stage {
    postgres: PrivatePostgres,
}

/// A database with the schema in it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    /// Where it is.
    pub(crate) url: String,
    pub(crate) pool: PgPool,
}

/// What is put into an outbox before it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    pub(crate) rows: u64,
    /// Bytes of each payload, as `jsonb` prints it.
    pub(crate) payload: u32,
    /// How many keys the rows have, in turn.
    pub(crate) keys: u64,
}

// === impl Stage ===

impl Stage {
    /// Starts a server. `durable`: whether it syncs its log at each commit.
    ///
    /// # Errors
    /// There is none on this machine, or it does not start.
    pub(crate) async fn start(durable: bool) -> Result<Self, Failure> {
        let options = PrivatePostgresOptions {
            durable,
            settings: SETTINGS
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..PrivatePostgresOptions::default()
        };
        let postgres = tokio::task::spawn_blocking(|| PrivatePostgres::start(options)).await??;
        Ok(Self { postgres })
    }

    /// A database with the schema, installed by the relay's own command.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) async fn database(&self, name: &str) -> Result<Database, Failure> {
        let url = self.postgres.create_database(name).await?;
        let environment = vec![("DATABASE_URL".to_owned(), url.clone())];
        let relay = RelayProcess::new(program()?, environment)?;
        tokio::task::spawn_blocking(move || relay.command(&["migrate"])).await??;
        let options: PgConnectOptions = url.parse()?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options.disable_statement_logging())
            .await?;
        Ok(Database { url, pool })
    }

    /// The processor time of the server so far, in seconds.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn processor_time(&self) -> Result<f64, Failure> {
        let pid = self.postgres.pid().ok_or("PostgreSQL does not run")?;
        Ok(processor_time_with_children(pid)?)
    }
}

/// The relay that is measured: the one `RELAY` names, or else that built with the
/// benchmark, by the same profile.
///
/// # Errors
/// There is no current directory that `RELAY` could be relative to.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    let named = std::env::var_os("RELAY").map(PathBuf::from);
    let program = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tidegate")));
    // It is started in a directory of its own.
    Ok(std::path::absolute(program)?)
}

/// What is added to its configuration, as TOML.
pub(crate) fn added_configuration() -> String {
    std::env::var("CONFIGURATION").unwrap_or_default()
}

/// What is measured, in words.
///
/// # Errors
/// Those of [`program`].
pub(crate) fn what_is_measured() -> Result<String, Failure> {
    let with = match std::env::var_os("RELAY") {
        Some(_) => "",
        None => " (built with the benchmark, feature demo)",
    };
    let configuration = match added_configuration() {
        none if none.is_empty() => none,
        added => format!(" with {added}"),
    };
    Ok(format!("{}{with}{configuration}", program()?.display()))
}

// === impl Database ===

impl Database {
    /// Runs statements.
    ///
    /// # Errors
    /// The server refuses one.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), Failure> {
        self.pool
            .execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())))
            .await?;
        Ok(())
    }

    /// A connection beside those of the pool.
    ///
    /// # Errors
    /// The server has none left.
    pub(crate) async fn connect(&self) -> Result<PgConnection, Failure> {
        let options: PgConnectOptions = self.url.parse()?;
        Ok(PgConnection::connect_with(&options.disable_statement_logging()).await?)
    }

    /// Makes an outbox and gives its id.
    ///
    /// # Errors
    /// There is one of that name.
    pub(crate) async fn create_outbox(&self, name: &str) -> Result<i32, Failure> {
        sqlx::query("SELECT tide.outbox_create($1)")
            .bind(name)
            .execute(&self.pool)
            .await?;
        let id = sqlx::query_scalar("SELECT outbox_id FROM tide.outbox WHERE name = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        Ok(id)
    }

    /// Fills outboxes with rows, of each the same number.
    ///
    /// # Errors
    /// The server refuses a row.
    pub(crate) async fn fill(&self, outboxes: &[i32], backlog: Backlog) -> Result<(), Failure> {
        let Backlog {
            rows,
            payload,
            keys,
        } = backlog;
        // {"at": 1234567890123456, "n": 12345678, "fill": "..."}
        let fill = payload.saturating_sub(54).max(1);
        let ids = outboxes
            .iter()
            .map(i32::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let of_each = rows / u64::try_from(outboxes.len().max(1))?;
        let payloads = format!(
            "CREATE TEMPORARY TABLE fill ON COMMIT PRESERVE ROWS AS
                SELECT n AS place, (SELECT left(string_agg(md5(random()::text || n || i), ''), {fill})
                    FROM generate_series(0, {fill} / 32) AS i) AS text
                FROM generate_series(0, {POOL} - 1) AS n;
            ALTER TABLE fill ADD PRIMARY KEY (place);
            ANALYZE fill"
        );
        let insert = format!(
            "DO $$
            DECLARE target int; start bigint;
            BEGIN
                FOREACH target IN ARRAY ARRAY[{ids}] LOOP
                    FOR start IN SELECT generate_series(1, {of_each}, {ROWS_PER_TRANSACTION}) LOOP
                        INSERT INTO tide.outbox_message (outbox_id, dedup_key, payload)
                        SELECT target, 'key-' || (n % {keys}), ('{{\"at\": 0, \"n\": ' || n || ', \"fill\": \"' || f.text || '\"}}')::jsonb
                        FROM generate_series(start, least(start + {ROWS_PER_TRANSACTION} - 1, {of_each})) AS n
                        JOIN fill AS f ON f.place = n % {POOL}
                        ORDER BY n;
                        COMMIT;
                    END LOOP;
                END LOOP;
            END $$"
        );
        let mut connection = self.connect().await?;
        // The second commits as it goes, which it may only by itself.
        for sql in [payloads, insert] {
            connection
                .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
                .await?;
        }
        connection
            .execute("VACUUM ANALYZE tide.outbox_message")
            .await?;
        connection.execute("CHECKPOINT").await?;
        connection.close().await?;
        Ok(())
    }

    /// Makes a pipeline of an outbox to the stream `bench`. It begins at the first
    /// row: every one of a new name delivers the whole outbox.
    ///
    /// # Errors
    /// The schema refuses it.
    pub(crate) async fn create_pipeline(
        &self,
        name: &str,
        outbox: &str,
        settings: &serde_json::Value,
    ) -> Result<(), Failure> {
        let mut config = serde_json::json!({
            "sink_type": "kinesis", "stream_name": "bench", "region": "us-east-1",
            "partition_key": "{dedup_key}", "batch_size": 500,
        });
        if let (Some(config), Some(settings)) = (config.as_object_mut(), settings.as_object()) {
            config.extend(settings.clone());
        }
        sqlx::query("SELECT tide.relay_set_outbox($1, $2, $3::text::jsonb)")
            .bind(name)
            .bind(outbox)
            .bind(config.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Removes all pipelines.
    ///
    /// # Errors
    /// The server does not answer.
    pub(crate) async fn delete_pipelines(&self) -> Result<(), Failure> {
        self.run("SELECT tide.relay_delete(name) FROM tide.relay_pipeline")
            .await
    }
}
