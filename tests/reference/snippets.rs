//! What consumers copy from `docs/concepts.md` works.

use std::process::Command;

use serde_json::{Value, json};

use crate::{database, page};

const PAGE: &str = "docs/concepts.md";

/// The first code block of a language that has these words.
fn snippet(language: &str, words: &str) -> String {
    let page = page(PAGE);
    let blocks = page.split("```").skip(1).step_by(2);
    let mut code = blocks.filter_map(|block| block.strip_prefix(&format!("{language}\n")));
    let found = code.find(|code| code.contains(words)).map(str::to_owned);
    found.unwrap_or_else(|| panic!("{PAGE} has no {language} with {words:?}"))
}

fn record(key: &str, seq: &str, number: u32) -> (String, String, u32) {
    (key.to_owned(), seq.to_owned(), number)
}

/// Deliveries with repeats, and a late committer: its id is lower, its window higher.
fn deliveries() -> Vec<(String, String, u32)> {
    let seq = |window: u32, id: u32| format!("{window:014}-{id:019}");
    vec![
        record("a", &seq(1, 10), 1),
        record("b", &seq(1, 11), 2),
        record("a", &seq(1, 12), 3),
        record("a", &seq(1, 10), 1), // a repeat
        record("a", &seq(1, 12), 3), // a repeat
        record("a", &seq(2, 9), 4),  // committed late
        record("b", &seq(1, 11), 2), // a repeat
        record("b", &seq(10, 13), 5),
        record("b", &seq(9, 12), 6), // a repeat from before
    ]
}

#[test]
fn the_lambda_drops_repeats_and_nothing_else() {
    let hexadecimal = |text: &str| {
        use std::fmt::Write;
        text.bytes().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("written");
            hex
        })
    };
    let records: Vec<Value> = deliveries()
        .iter()
        .map(|(key, seq, number)| {
            json!(hexadecimal(
                &json!({"key": key, "seq": seq, "payload": number}).to_string()
            ))
        })
        .collect();
    // The records travel as hexadecimal digits, and become what Lambda hands over.
    let code = format!(
        "{}\nimport sys\nhexes = json.loads(sys.argv[1])\n\
        data = [base64.b64encode(bytes.fromhex(one)).decode() for one in hexes]\n\
        handler({{'Records': [{{'kinesis': {{'data': one}}}} for one in data]}}, None)\n",
        snippet("python", "def handler")
    );
    let ran = Command::new("python3")
        .args(["-c", &code, &Value::Array(records).to_string()])
        .output()
        .expect("python3 is needed for this test: install it (apt-get install python3)");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "a 1\nb 2\na 3\na 4\nb 5\n"
    );
}

#[tokio::test]
async fn the_statement_tells_repeats_from_news() {
    let pool = database::migrated().await;
    sqlx::query("CREATE TABLE consumed (key text PRIMARY KEY, seq text NOT NULL)")
        .execute(&pool)
        .await
        .expect("a table");
    let statement = snippet("sql", "INSERT INTO consumed");
    let mut handled = Vec::new();
    for (key, seq, number) in deliveries() {
        let done = sqlx::query(sqlx::AssertSqlSafe(statement.clone()))
            .bind(&key)
            .bind(&seq)
            .execute(&pool)
            .await
            .expect("advanced");
        if done.rows_affected() == 1 {
            handled.push(number);
        }
    }
    assert_eq!(handled, [1, 2, 3, 4, 5]);
}
