#!/usr/bin/env python3
"""Compares a folder, into which Gantry has downloaded a bucket, with what boto3 reads.

    boto.py ENDPOINT BUCKET FOLDER

prints the keys and sizes that boto3 lists as JSON. Exits with 1 if a file is missing or has other bytes.
"""

import json
import sys
from pathlib import Path

import boto3
from botocore.config import Config


def main():
    endpoint, bucket, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    config = Config(s3={"addressing_style": "path"}, connect_timeout=10, read_timeout=30, retries={"max_attempts": 2})
    s3 = boto3.client("s3", endpoint_url=endpoint, config=config)

    listed = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}):
        listed += [(entry["Key"], entry["Size"]) for entry in page.get("Contents", [])]
    for key, _ in listed:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        if not (folder / key).is_file() or (folder / key).read_bytes() != body:
            sys.exit(f"{key}: differs from what boto3 reads")
    print(json.dumps(listed))


if __name__ == "__main__":
    main()
