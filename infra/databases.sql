-- Run by the first start of PostgreSQL, with an empty volume.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
