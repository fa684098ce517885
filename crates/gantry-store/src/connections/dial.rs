//! Connects to the first address of a host that answers.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;
use tower_service::Service;

/// How long an attempt may take before the next address is tried as well. Source: RFC 8305, section 5.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Maximum number of addresses that are tried. AWS has up to eight for a name.
const ADDRESSES_MAX: usize = 16;

/// Opens TCP connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial;

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(async move {
            let (host, port) = target(&url)?;
            let unknown = |error: io::Error| io::Error::new(error.kind(), format!("can't resolve {host}: {error}"));
            let addresses = lookup_host((host, port)).await.map_err(unknown)?.take(ADDRESSES_MAX).collect();

            let stream = first(alternated(addresses), TcpStream::connect).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

fn target(url: &Uri) -> io::Result<(&str, u16)> {
    let no_host = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let host = url.host().ok_or_else(no_host)?;
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    Ok((host.trim_start_matches('[').trim_end_matches(']'), url.port_u16().unwrap_or(default)))
}

/// Alternates the families of the addresses, and otherwise keeps their order. One family may be without a route.
fn alternated(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == is_v6);

    let mut alternated = Vec::with_capacity(preferred.len() + others.len());
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    loop {
        let next = [preferred.next(), others.next()];
        if next == [None, None] {
            return alternated;
        }
        alternated.extend(next.into_iter().flatten());
    }
}

/// Returns the first connection that is established. The next address is tried when an attempt fails or takes long,
/// while earlier attempts continue.
///
/// # Errors
/// The last error, if no address answers.
async fn first<S, F>(addresses: Vec<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut addresses = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");

    loop {
        attempts.extend(addresses.next().map(&connect));

        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            // The attempts stay in the set, so nothing is lost.
            () = sleep(NEXT_AFTER), if addresses.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_first_addresses_are_dead_is_reached() {
        let all = addresses(&["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80", "192.0.2.4:80"]);
        let begun = Instant::now();

        let found = first(all.clone(), async |address| {
            if address == all[0] {
                pending::<()>().await;
            }
            if address == all[1] {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            sleep(Duration::from_millis(100)).await;
            Ok(address)
        });

        assert_eq!(found.await.unwrap(), all[2]);
        // The first address is slow, the second fails at once.
        assert_eq!(begun.elapsed(), NEXT_AFTER + Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_still_counts() {
        let all = addresses(&["192.0.2.1:80", "192.0.2.2:80"]);
        let found = first(all.clone(), async |address| {
            sleep(Duration::from_millis(if address == all[0] { 400 } else { 200 })).await;
            Ok(address)
        });
        assert_eq!(found.await.unwrap(), all[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_reported_if_no_address_answers() {
        for all in [addresses(&[]), addresses(&["192.0.2.1:80"]), addresses(&["192.0.2.1:80", "[2001:db8::1]:80"])] {
            let is_empty = all.is_empty();
            let connect = async |_| Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused));
            let kind = first(all, connect).await.unwrap_err().kind();
            assert_eq!(kind, if is_empty { io::ErrorKind::NotFound } else { io::ErrorKind::ConnectionRefused });
        }
    }

    #[test]
    fn families_alternate_in_the_order_of_the_resolver() {
        let all = addresses(&["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1"]);
        let expected = addresses(&["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1", "[2001:db8::3]:1"]);
        assert_eq!(alternated(all), expected);
    }

    #[test]
    fn the_target_is_taken_from_the_url() {
        let of = |url: &str| target(&url.parse().unwrap()).map(|(host, port)| (host.to_owned(), port)).unwrap();
        assert_eq!(of("http://h/x"), ("h".to_owned(), 80));
        assert_eq!(of("https://h"), ("h".to_owned(), 443));
        assert_eq!(of("https://[::1]:9000/x"), ("::1".to_owned(), 9000));
    }
}
