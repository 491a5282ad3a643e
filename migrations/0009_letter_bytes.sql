-- Letters to be sent again are read in rounds that are bounded in bytes too: what
-- each weighs is written down when it is parked, so that no payload is read to
-- find out that it does not fit.
ALTER TABLE tide.relay_dead_letter ADD COLUMN bytes bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN tide.relay_dead_letter.bytes IS 'what payload and headers weigh as text';

UPDATE tide.relay_dead_letter
SET bytes = octet_length(payload::text) + octet_length(headers::text);
