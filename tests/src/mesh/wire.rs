//! Connections as any client makes them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// GET of a path; the whole answer, head and all.
///
/// # Errors
/// If it does not answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    Ok(String::from_utf8_lossy(&say(&mut stream, request.as_bytes()).await?).into_owned())
}

/// Sends bytes and reads until the other side closes, or has been silent for a while after it was told that nothing more comes.
///
/// # Errors
/// If it keeps the connection open all the same.
pub async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let _ = stream.write_all(bytes).await; // it may have closed already: that is an answer
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return, // a reset ends it as well as an end does
                Ok(read) => answer.extend_from_slice(&chunk[..read]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await?;
    Ok(answer)
}
