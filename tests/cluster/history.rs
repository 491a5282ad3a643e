//! What became of every lease, written by triggers of the tests.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgPool};

/// The tables and triggers. A lease that changes hands while it runs is an offence, and
/// so are an epoch that does not rise by one and a position that moves under another
/// epoch than the lease's.
const HISTORY: &str = "
CREATE TABLE lease_history (
    place bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    pipeline text NOT NULL, owner text NOT NULL, epoch bigint NOT NULL);
CREATE TABLE offences (at timestamptz NOT NULL DEFAULT clock_timestamp(), what text NOT NULL);
CREATE FUNCTION note_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.epoch <> OLD.epoch OR NEW.owner <> OLD.owner THEN
        INSERT INTO lease_history (pipeline, owner, epoch) VALUES (NEW.pipeline, NEW.owner, NEW.epoch);
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.epoch <> OLD.epoch THEN
        IF NEW.epoch <> OLD.epoch + 1 THEN
            INSERT INTO offences (what) VALUES (format('%s goes from epoch %s to %s', NEW.pipeline, OLD.epoch, NEW.epoch));
        END IF;
        IF OLD.owner <> NEW.owner AND OLD.expires_at > clock_timestamp() THEN
            INSERT INTO offences (what) VALUES (format('%s is taken from %s by %s while its lease runs', NEW.pipeline, OLD.owner, NEW.owner));
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.epoch = OLD.epoch AND NEW.owner NOT IN (OLD.owner, '') THEN
        INSERT INTO offences (what) VALUES (format('%s has another owner under the same epoch', NEW.pipeline));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_lease AFTER INSERT OR UPDATE ON tide.relay_lease FOR EACH ROW EXECUTE FUNCTION note_lease();
CREATE FUNCTION note_position() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held bigint;
BEGIN
    SELECT l.epoch INTO held FROM tide.relay_lease AS l WHERE l.pipeline = NEW.pipeline;
    IF held IS DISTINCT FROM NEW.epoch THEN
        INSERT INTO offences (what) VALUES (format('the position of %s moves under epoch %s, the lease has %s', NEW.pipeline, NEW.epoch, held));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_position AFTER INSERT OR UPDATE ON tide.relay_position FOR EACH ROW EXECUTE FUNCTION note_position();
";

/// Begins to keep it.
pub(crate) async fn keep(pool: &PgPool) {
    let done = sqlx::raw_sql(AssertSqlSafe(HISTORY.to_owned()))
        .execute(pool)
        .await;
    done.expect("triggers");
}

/// Where a history is looked at from.
pub(crate) async fn now(pool: &PgPool) -> i64 {
    let sql = "SELECT coalesce(max(place), 0) FROM lease_history";
    sqlx::query_scalar(sql)
        .fetch_one(pool)
        .await
        .expect("a place")
}

/// How often each pipeline has moved to another node since then.
pub(crate) async fn moves(pool: &PgPool, since: i64) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT pipeline, count(*) FROM (
            SELECT place, pipeline, owner, lag(owner) OVER (PARTITION BY pipeline ORDER BY place) AS before
            FROM lease_history WHERE owner <> '') AS owned
        WHERE place > $1 AND owner IS DISTINCT FROM before GROUP BY pipeline ORDER BY pipeline",
    )
    .bind(since)
    .fetch_all(pool)
    .await
    .expect("moves");
    rows.into_iter().collect()
}

/// Nobody owned what another one owned, and nobody wrote what was not his.
pub(crate) async fn judge(pool: &PgPool) {
    let offences: Vec<String> = sqlx::query_scalar("SELECT what FROM offences ORDER BY at")
        .fetch_all(pool)
        .await
        .expect("offences");
    assert!(offences.is_empty(), "{offences:#?}");
    let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM lease_history")
        .fetch_one(pool)
        .await
        .expect("a history");
    assert!(taken > 0, "no lease was ever taken");
}

/// A history that sees nothing would find nothing.
#[tokio::test]
async fn offences_are_found() {
    let pool = crate::database::migrated().await;
    keep(&pool).await;
    let statements = "
        INSERT INTO tide.relay_lease (pipeline, owner, epoch, expires_at) VALUES ('p', 'a', 1, clock_timestamp() + interval '1 hour');
        INSERT INTO tide.relay_position (pipeline, epoch) VALUES ('p', 1);
        UPDATE tide.relay_lease SET owner = 'b', epoch = 3;
        UPDATE tide.relay_lease SET owner = 'c';
        UPDATE tide.relay_position SET settled_id = 1;";
    sqlx::raw_sql(statements)
        .execute(&pool)
        .await
        .expect("done");
    let offences: i64 = sqlx::query_scalar("SELECT count(*) FROM offences")
        .fetch_one(&pool)
        .await
        .expect("offences");
    assert_eq!(offences, 4);
    assert_eq!(moves(&pool, 1).await, BTreeMap::from([("p".to_owned(), 2)]));
}
