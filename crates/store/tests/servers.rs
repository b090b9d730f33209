//! The servers that people have: with TLS, several of them, behind a pooler; and files that are not
//! what their URL says.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path, str::FromStr as _};

use gozon_contract::RandomSource;
use gozon_store::{CLOCK_MIGRATIONS, Db, Error, Result, Statement, migrate, select};
use gozon_testkit::{
    Certificates, PgBouncer, TestDb, postgres_url, second_postgres_url, start_postgres_tls,
    stop_postgres_tls,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};

async fn write(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    tx.query("select 1").execute().await?;
    tx.commit().await
}

/// Whether the connection of a reader is encrypted.
async fn is_encrypted(db: &Db) -> Result<bool> {
    let select = select!("select count(*) from pg_stat_ssl where ssl and pid = pg_backend_pid()");
    let (encrypted,): (i64,) = db.read().await?.query(select).fetch_one().await?;
    Ok(encrypted == 1)
}

async fn run(url: &str, statements: &[&str]) {
    let mut server = PgConnection::connect(url).await.unwrap();
    for sql in statements {
        let sql = AssertSqlSafe((*sql).to_owned());
        sqlx::raw_sql(sql).execute(&mut server).await.unwrap();
    }
    server.close().await.unwrap();
}

#[tokio::test]
async fn tls_is_spoken_as_the_url_says() {
    let certificates = Certificates::make();
    // The second server, so that the other tests go on without TLS.
    let server = second_postgres_url();
    start_postgres_tls(&server, &certificates).await;
    let by_name = server.replace("127.0.0.1", "localhost");
    let authority = certificates.authority.display();
    let stranger = certificates.stranger.display();
    let open = |url: &str, parameters: String| Db::open(&format!("{url}?{parameters}"), 1).unwrap();

    for (url, parameters, encrypted) in [
        (&server, "sslmode=disable".to_owned(), false),
        (&server, "sslmode=prefer".to_owned(), true),
        (&server, "sslmode=require".to_owned(), true),
        (&server, format!("sslmode=verify-ca&sslrootcert={authority}"), true),
        (&by_name, format!("sslmode=verify-full&sslrootcert={authority}"), true),
    ] {
        let db = open(url, parameters.clone());
        assert_eq!(is_encrypted(&db).await.unwrap(), encrypted, "{parameters}");
        write(&db).await.unwrap();
    }
    for (url, parameters) in [
        // Not the name in the certificate, not the authority, not one that the system trusts.
        (&server, format!("sslmode=verify-full&sslrootcert={authority}")),
        (&by_name, format!("sslmode=verify-full&sslrootcert={stranger}")),
        (&by_name, format!("sslmode=verify-ca&sslrootcert={stranger}")),
        (&by_name, "sslmode=verify-full".to_owned()),
    ] {
        let error = write(&open(url, parameters.clone())).await.unwrap_err();
        assert!(error.is_unavailable(), "{parameters}: {error}");
        assert!(error.to_string().contains("certificate"), "{parameters}: {error}");
    }
    stop_postgres_tls(&server).await;
}

/// A database of one name on both servers, and the URL that names both.
async fn on_two_servers() -> (String, [String; 2], String) {
    let name = format!("gozon_test_{:016x}", RandomSource::system().next_u64());
    let servers = [postgres_url(), second_postgres_url()];
    for server in &servers {
        run(server, &[&format!("create database {name}")]).await;
    }
    let address = |server: &str| {
        let (_, rest) = server.split_once('@').unwrap();
        rest.split('/').next().unwrap().to_owned()
    };
    let [first, second] = [address(&servers[0]), address(&servers[1])];
    let url = format!("postgres://gozon@{first},{second}/{name}?target_session_attrs=read-write");
    (url, servers, name)
}

async fn port(db: &Db) -> Result<i64> {
    let select = select!("select inet_server_port()::bigint");
    let (port,): (i64,) = db.read().await?.query(select).fetch_one().await?;
    Ok(port)
}

async fn make_read_only(server: &str, name: &str, read_only: bool) {
    let alter = format!("alter database {name} set default_transaction_read_only = {read_only}");
    run(server, &[&alter]).await;
}

async fn end_connections(server: &str, name: &str) {
    let end =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
    run(server, &[&end]).await;
}

#[tokio::test]
async fn a_failover_needs_no_proxy() {
    let (url, servers, name) = on_two_servers().await;
    make_read_only(&servers[1], &name, true).await;
    let db = Db::open(&url, 3).unwrap();
    write(&db).await.unwrap();
    let first = port(&db).await.unwrap();

    // The other server takes over, back and forth; the former stays there and can be read.
    let mut now = first;
    for (down, up) in [(0, 1), (1, 0)] {
        make_read_only(&servers[down], &name, true).await;
        make_read_only(&servers[up], &name, false).await;
        end_connections(&servers[down], &name).await;
        while write(&db).await.is_err() || write_row(&db).await.is_err() {}
        let after = port(&db).await.unwrap();
        assert_ne!(after, now);
        now = after;
    }
    assert_eq!(now, first);

    // No server can be written to: an error of the environment that says which and why.
    make_read_only(&servers[0], &name, true).await;
    end_connections(&servers[0], &name).await;
    let error = loop {
        match write_row(&db).await {
            Err(error) if error.to_string().contains("no server fits") => break error,
            _ => {}
        }
    };
    assert!(error.is_unavailable());
    assert_eq!(error.to_string().matches("it is read-only").count(), 2, "{error}");

    db.close().await;
    for server in &servers {
        run(server, &[&format!("drop database {name} with (force)")]).await;
    }
}

/// Writes for real, so that a server that only reads refuses.
async fn write_row(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    tx.query("create table if not exists written (n bigint)").execute().await?;
    tx.commit().await
}

#[tokio::test]
async fn a_server_that_is_away_is_passed_over() {
    let test = TestDb::postgres().await;
    let nobody = "127.0.0.1:1";
    let url = test.url().replacen('@', &format!("@{nobody},"), 1);
    write(&Db::open(&url, 1).unwrap()).await.unwrap();
}

#[tokio::test]
async fn everything_works_behind_a_transaction_pooler() {
    let test = TestDb::postgres().await;
    let pooler = PgBouncer::before(test.url()).await;
    let url = format!("{}&pooler=transaction", pooler.url(test.url()));
    let db = Db::open(&url, 8).unwrap();
    migrate(&db, CLOCK_MIGRATIONS).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    tx.query("create table counted (one bigint primary key, n bigint not null)")
        .execute()
        .await
        .unwrap();
    tx.query("insert into counted values (1, 0)").execute().await.unwrap();
    tx.commit().await.unwrap();

    // More clients than the pooler has connections, so that these change hands.
    let clients = (0..8).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                let add = || {
                    vec![Statement::new("update counted set n = n + 1 where one = 1").expecting(1)]
                };
                db.optimistic().await.unwrap().commit(add()).await.unwrap();
                db.locking().await.unwrap().commit(add()).await.unwrap();
                let select = select!("select n from counted where one = $1");
                let mut reader = db.read().await.unwrap();
                reader.query(select).bind(1).fetch_one::<(i64,)>().await.unwrap();
                drop(reader);
                let mut snapshot = db.snapshot().await.unwrap();
                snapshot.query(select).bind(1).fetch_one::<(i64,)>().await.unwrap();
                drop(snapshot);
                db.check().await.unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let select = select!("select n from counted");
    let (counted,): (i64,) = db.read().await.unwrap().query(select).fetch_one().await.unwrap();
    assert_eq!(counted, 320);

    // A transaction has its settings, and leaves none behind.
    let setting = select!("select current_setting('lock_timeout')");
    let mut tx = db.begin().await.unwrap();
    let (inside,): (String,) = tx.reader().query(setting).fetch_one().await.unwrap();
    assert_eq!(inside, "250ms");
    tx.commit().await.unwrap();
    let plain = PgConnectOptions::from_str(&pooler.url(test.url())).unwrap();
    let mut other = PgConnection::connect_with(&plain.extra_float_digits(None)).await.unwrap();
    let row = sqlx::raw_sql("show lock_timeout").fetch_one(&mut other).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "0");
}

#[tokio::test]
async fn a_pooler_that_the_url_hides_is_named() {
    let test = TestDb::postgres().await;
    let pooler = PgBouncer::before(test.url()).await;
    let db = Db::open(&pooler.url(test.url()), 2).unwrap();
    let error = write(&db).await.unwrap_err();
    assert!(error.is_unavailable());
    assert!(error.to_string().contains("add pooler=transaction"), "{error}");
}

#[test]
fn a_file_that_cannot_be_used_is_an_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    fs::write(folder.path().join("file"), "").unwrap();
    for (url, reason) in [
        (format!("sqlite:{path}"), "is a folder"),
        (format!("sqlite:{path}/file/x.db"), "can't make the folder"),
        ("sqlite:/proc/x.db".to_owned(), "can't write to the folder /proc"),
        ("sqlite:/dev/null".to_owned(), "is not a file"),
        (format!("sqlite:{path}/x.db?mode=ro"), "takes no parameters; leave out ?mode=ro"),
    ] {
        let said = Db::open(&url, 1).unwrap_err().to_string();
        assert!(said.contains(reason), "{url}: {said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_of_another_kind_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letter.txt");
    fs::write(&file, "Dear shop, ".repeat(100)).unwrap();
    let db = Db::open(&format!("sqlite:{}", file.display()), 1).unwrap();
    let error = migrate(&db, CLOCK_MIGRATIONS).await.unwrap_err();
    assert!(error.is_another_kind_of_file(), "{error}");
    assert!(error.to_string().contains("not a database"), "{error}");
}

#[tokio::test]
async fn a_deleted_or_replaced_file_takes_no_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, aside) = (folder.path().join("x.db"), folder.path().join("aside.db"));
    let db = Db::open(&format!("sqlite:{}", file.display()), 1).unwrap();
    migrate(&db, CLOCK_MIGRATIONS).await.unwrap();
    db.check().await.unwrap();
    let assert_lost = async |file: &Path| {
        for result in [db.check().await, write(&db).await] {
            match result {
                Err(error @ Error::Unavailable(_)) => {
                    assert!(error.to_string().contains("was deleted or replaced"), "{error}");
                }
                other => panic!("{}: {other:?}", file.display()),
            }
        }
    };
    fs::rename(&file, &aside).unwrap();
    assert_lost(&file).await;
    fs::write(&file, "").unwrap();
    assert_lost(&file).await;
    fs::rename(&aside, &file).unwrap();
    db.check().await.unwrap();
    write(&db).await.unwrap();
}
