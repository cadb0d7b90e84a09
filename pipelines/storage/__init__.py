"""Files wherever they are: on this machine's disks, in tar files, on S3. The only place that knows boto3."""
