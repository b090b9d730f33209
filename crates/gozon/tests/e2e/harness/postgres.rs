//! What an operator, or somebody careless, does to a PostgreSQL database while the shop runs.

use std::str::FromStr as _;

use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions, raw_sql,
};

/// A session of somebody else on a shop's database, or on its server.
pub struct Postgres {
    connection: PgConnection,
    /// The name of the shop's database.
    pub database: String,
}

impl Postgres {
    /// A session on the database at `url`.
    pub async fn on(url: &str) -> Self {
        let options = PgConnectOptions::from_str(url).expect("a PostgreSQL URL");
        Self::with(&options, &options).await
    }

    /// The same, unless the server is away.
    pub async fn try_on(url: &str) -> sqlx::Result<Self> {
        let options = PgConnectOptions::from_str(url).expect("a PostgreSQL URL");
        Self::try_with(&options, &options).await
    }

    /// A session on the server of the database at `url`, but not on that database.
    pub async fn beside(url: &str) -> Self {
        let options = PgConnectOptions::from_str(url).expect("a PostgreSQL URL");
        Self::with(&options, &options.clone().database("postgres")).await
    }

    async fn with(shop: &PgConnectOptions, to: &PgConnectOptions) -> Self {
        Self::try_with(shop, to).await.expect("the server answers")
    }

    async fn try_with(shop: &PgConnectOptions, to: &PgConnectOptions) -> sqlx::Result<Self> {
        let connection = PgConnection::connect_with(to).await?;
        Ok(Self { connection, database: shop.get_database().expect("a database").to_owned() })
    }

    /// Runs statements. `{database}` stands for the name of the shop's database.
    pub async fn run(&mut self, sql: &str) {
        let result = self.try_run(sql).await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs statements that may fail.
    pub async fn try_run(&mut self, sql: &str) -> sqlx::Result<()> {
        let sql = AssertSqlSafe(sql.replace("{database}", &self.database));
        raw_sql(sql).execute(&mut self.connection).await.map(drop)
    }

    /// The one number that a query comes to.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let query = AssertSqlSafe(sql.replace("{database}", &self.database));
        let row = raw_sql(query).fetch_one(&mut self.connection).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    /// Ends every session on the shop's database but this one.
    pub async fn end_sessions(&mut self) {
        self.try_end_sessions().await.expect("the server answers");
    }

    /// The same, unless the server is away.
    pub async fn try_end_sessions(&mut self) -> sqlx::Result<()> {
        self.try_run(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = '{database}' and pid <> pg_backend_pid()",
        )
        .await
    }

    /// Says goodbye, which gives up what it holds.
    pub async fn close(self) {
        let _ = self.connection.close().await;
    }
}
