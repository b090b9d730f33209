//! `gozon health URL`: a health check that needs no shell and no curl.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Succeeds if the server answers 200.
pub async fn ask(url: &str) -> anyhow::Result<ExitCode> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("give a URL such as http://127.0.0.1:8080/readyz");
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        bail!("leave out the user and the password: http://127.0.0.1:8080/readyz");
    }
    let answer = timeout(Duration::from_secs(5), get(host, path)).await;
    let answer = answer.with_context(|| format!("{url} does not answer"))??;
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or("nothing");
    if status != "200" {
        bail!("{url} answers {status}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(host: &str, path: &str) -> anyhow::Result<String> {
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(&address)
        .await
        .with_context(|| format!("nothing listens on {address}"))?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = vec![0; 256];
    let length = stream.read(&mut head).await?;
    Ok(String::from_utf8_lossy(&head[..length]).into_owned())
}
