"""Takes aggregated records apart with the library of AWS.

Reads records from standard input, one JSON object a line with "key", "sequence" and
"data" (base64), and writes their rows in order, each with its place in its record.
"""
import base64
import json
import sys

from aws_kinesis_agg.deaggregator import iter_deaggregate_records


def as_lambda_gets_it(record):
    return {
        "eventSource": "aws:kinesis",
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record["key"],
            "sequenceNumber": record["sequence"],
            "approximateArrivalTimestamp": 0,
            "data": record["data"],
        },
    }


records = [as_lambda_gets_it(json.loads(line)) for line in sys.stdin]
for row in iter_deaggregate_records(records):
    kinesis = row["kinesis"]
    data = kinesis["data"]
    row = {
        "key": kinesis["partitionKey"],
        "sequence": kinesis["sequenceNumber"],
        "place": kinesis.get("subSequenceNumber"),
        "body": base64.b64decode(data).decode(),
    }
    print(json.dumps(row))
