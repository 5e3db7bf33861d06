#!/bin/sh
# Run once, by PostgreSQL's own image, when its volume is new: the role that notebooks sign in with, without any rights yet.
# `gateway operator-role` (the service operator-role) gives it what operators need. The name is no secret; the password is.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$OPS_DATABASE_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE operators LOGIN PASSWORD :'password';
SQL
