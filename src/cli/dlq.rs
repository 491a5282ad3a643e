//! `tidegate dlq`: dead letters for people. All it does is also there in SQL
//! (`tide.relay_dlq_...`).

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::migrate::pool_settings;
use super::{Failure, Output};
use crate::config::settings::{DatabaseSettings, Settings};
use crate::postgres::pool::connect_lazily;
use crate::postgres::schema;

/// The longest a text is in a table, in characters.
const WIDEST: usize = 60;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The database, as the configuration names it; needed when there are several
    #[arg(long, global = true, value_name = "NAME")]
    database: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, oldest first, without their payloads
    List {
        /// Only those of this pipeline
        #[arg(long)]
        pipeline: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..))]
        limit: i32,
        /// Also those that are closed: delivered or discarded
        #[arg(long)]
        all: bool,
    },
    /// Show a letter with its payload and headers
    Show {
        /// The letter's id
        id: i64,
    },
    /// Have a parked letter sent again, or all of a pipeline
    Retry {
        /// The letter's id
        #[arg(required_unless_present = "pipeline", conflicts_with = "pipeline")]
        id: Option<i64>,
        /// All parked and waiting letters of this pipeline
        #[arg(long)]
        pipeline: Option<String>,
    },
    /// Close a letter without sending it
    Discard {
        /// The letter's id
        id: i64,
        /// Why; kept as the letter's note
        #[arg(long)]
        why: String,
    },
}

const LIST: &str = "
SELECT coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.letter_id), '[]')
FROM tide.relay_dlq_list($1, $2, $3) AS l";

const SHOW: &str = "
SELECT to_jsonb(d) || jsonb_build_object('outbox', (
    SELECT o.name FROM tide.outbox AS o WHERE o.outbox_id = d.outbox_id))
FROM tide.relay_dead_letter AS d WHERE d.letter_id = $1";

pub(super) fn run(
    settings: &Settings,
    arguments: Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let database = choose(settings, arguments.database.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    let (text, value) = runtime.block_on(answer(database, arguments.command))?;
    output.result(&text, &value);
    Ok(ExitCode::SUCCESS)
}

fn choose<'a>(
    settings: &'a Settings,
    wanted: Option<&str>,
) -> Result<&'a DatabaseSettings, Failure> {
    let names: Vec<&str> = settings
        .databases
        .iter()
        .map(|known| &*known.name)
        .collect();
    let found = match (wanted, settings.databases.as_slice()) {
        (Some(wanted), all) => all.iter().find(|known| &*known.name == wanted),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.ok_or_else(|| {
        Failure::Failed(match wanted {
            Some(wanted) => format!(
                "no database is named {wanted:?}; there are {}",
                names.join(", ")
            ),
            None => format!(
                "say which database with --database: there are {}",
                names.join(", ")
            ),
        })
    })
}

async fn answer(database: &DatabaseSettings, command: Command) -> Result<(String, Value), Failure> {
    let name = &database.name;
    let pool = connect_lazily(&pool_settings(database))
        .map_err(|error| Failure::Failed(format!("database {name:?}: {error}")))?;
    schema::check(&pool)
        .await
        .map_err(|error| Failure::Failed(format!("database {name:?}: {error}")))?;
    let answer = match command {
        Command::List {
            pipeline,
            limit,
            all,
        } => list(&pool, pipeline, limit, all).await,
        Command::Show { id } => show(&pool, id).await,
        Command::Retry {
            id: Some(id),
            pipeline: _,
        } => retry(&pool, id).await,
        Command::Retry { id: None, pipeline } => retry_all(&pool, pipeline.as_deref()).await,
        Command::Discard { id, why } => discard(&pool, id, &why).await,
    };
    pool.close().await;
    answer
        .map_err(|error| Failure::Failed(format!("database {name:?}: {}", with_hint(&error))))?
        .ok_or_else(|| {
            Failure::Failed(
                "there is no such dead letter; `tidegate dlq list --all` lists them".to_owned(),
            )
        })
}

/// What the database says, and what it says to do.
pub(super) fn with_hint(error: &sqlx::Error) -> String {
    let database = error.as_database_error();
    let postgres =
        database.and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
    match postgres.map(|error| (error.message(), error.hint())) {
        Some((message, Some(hint))) => format!("{message}. {hint}"),
        Some((message, None)) => message.to_owned(),
        None => error.to_string(),
    }
}

type Answer = Result<Option<(String, Value)>, sqlx::Error>;

async fn list(pool: &PgPool, pipeline: Option<String>, limit: i32, all: bool) -> Answer {
    let mut states = vec!["parked", "waiting", "retry"];
    if all {
        states.extend(["delivered", "discarded"]);
    }
    let letters: Value = sqlx::query_scalar(LIST)
        .bind(pipeline)
        .bind(limit)
        .bind(states)
        .fetch_one(pool)
        .await?;
    let rows = letters.as_array().map_or(&[][..], Vec::as_slice);
    Ok(Some((table(rows), json!({ "letters": letters }))))
}

async fn show(pool: &PgPool, id: i64) -> Answer {
    let letter: Option<Value> = sqlx::query_scalar(SHOW)
        .bind(id)
        .fetch_optional(pool)
        .await?;
    Ok(letter.map(|letter| {
        let members = letter.as_object().into_iter().flatten();
        let lines: Vec<String> = members
            .map(|(name, value)| format!("{name:<14} {}", printed(value)))
            .collect();
        (lines.join("\n"), letter)
    }))
}

async fn retry(pool: &PgPool, id: i64) -> Answer {
    let letters: i32 = sqlx::query_scalar("SELECT tide.relay_dlq_retry($1)")
        .bind(id)
        .fetch_one(pool)
        .await?;
    let text = match letters {
        1 => format!("letter {id} will be sent again"),
        more => format!("letter {id} and {} behind it will be sent again", more - 1),
    };
    Ok(Some((text, json!({ "letter_id": id, "retried": letters }))))
}

async fn retry_all(pool: &PgPool, pipeline: Option<&str>) -> Answer {
    let letters: i64 = sqlx::query_scalar("SELECT tide.relay_dlq_retry_all($1)")
        .bind(pipeline)
        .fetch_one(pool)
        .await?;
    let text = format!("{letters} letters will be sent again");
    Ok(Some((
        text,
        json!({ "pipeline": pipeline, "retried": letters }),
    )))
}

async fn discard(pool: &PgPool, id: i64, why: &str) -> Answer {
    let released: i32 = sqlx::query_scalar("SELECT tide.relay_dlq_discard($1, $2)")
        .bind(id)
        .bind(why)
        .fetch_one(pool)
        .await?;
    let text = match released {
        0 => format!("letter {id} is discarded"),
        more => format!("letter {id} is discarded; {more} that waited behind it will be sent"),
    };
    Ok(Some((
        text,
        json!({ "letter_id": id, "released": released }),
    )))
}

fn printed(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A table for people: aligned columns, long texts cut.
fn table(letters: &[Value]) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("ID", "letter_id"),
        ("PIPELINE", "pipeline_name"),
        ("ROW", "row_id"),
        ("KEY", "partition_key"),
        ("STATE", "state"),
        ("REASON", "reason"),
        ("TRIES", "attempts"),
        ("MESSAGE", "message"),
    ];
    if letters.is_empty() {
        return "no dead letters".to_owned();
    }
    let cell = |text: String| -> String {
        // A key may hold anything, line breaks and escape codes too.
        let text = text.replace(char::is_control, " ");
        if text.chars().count() <= WIDEST {
            return text;
        }
        let start: String = text.chars().take(WIDEST - 3).collect();
        format!("{start}...")
    };
    let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
    for letter in letters {
        rows.push(COLUMNS.map(|(_, name)| cell(printed(&letter[name]))));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS.len()).filter_map(width).collect();
    let line = |row: &[String; COLUMNS.len()]| {
        let cells = row.iter().zip(&widths);
        let padded = cells.map(|(cell, width)| format!("{cell:<width$}"));
        let line: Vec<String> = padded.collect();
        line.join("  ").trim_end().to_owned()
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_shows_nothing_raw() {
        let letters = [
            json!({"letter_id": 7, "pipeline_name": "p", "row_id": 12, "partition_key": "a\u{1b}[31m\nb",
                "state": "parked", "reason": "key_empty", "attempts": 1, "message": "x".repeat(90)}),
            json!({"letter_id": 1234, "pipeline_name": "longer", "row_id": 1, "partition_key": null,
                "state": "waiting", "reason": "key_blocked", "attempts": 1, "message": "m"}),
        ];
        let printed = table(&letters);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 3, "{printed}");
        let column = |line: &str, word| line.find(word);
        assert_eq!(column(lines[0], "STATE"), column(lines[1], "parked"));
        assert_eq!(column(lines[0], "STATE"), column(lines[2], "waiting"));
        assert!(
            !printed.contains('\u{1b}') && lines[1].ends_with("..."),
            "{printed}"
        );
        assert_eq!(table(&[]), "no dead letters");
    }
}
