//! Connections as any client makes them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Where connections are passed on to `to`, as from `source`; for as long as the runtime lives.
///
/// # Errors
/// If nothing can listen.
pub async fn from_address(source: IpAddr, to: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let here = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind((source, 0).into())?;
                let mut onward = socket.connect(to).await?;
                tokio::io::copy_bidirectional(&mut caller, &mut onward).await
            });
        }
    });
    Ok(here)
}

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
