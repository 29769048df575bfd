//! The server: questions by UDP and TCP, answers from the snapshot.
//!
//! It listens on the DNS service's addresses, which every node has on `lo`, at
//! a port of its own: the map `services-v4` leads port 53 of those addresses to
//! it, so a resolver of the host that holds port 53 of all addresses is not in
//! the way, and we are not in its.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::cluster::DnsConfig;
use crate::dns::forward::Forwarder;
use crate::dns::{Answer, Data, Names, TTL};
use crate::error::{Error, ErrorKind};

/// A client that keeps a connection open and asks nothing.
const IDLE: Duration = Duration::from_secs(10);

/// What we send by UDP at most: no fragments on any usual wire (DNS flag day 2020).
const PAYLOAD_BYTES: u16 = 1232;

/// Answers waiting on one connection.
const CONNECTION_BUFFER: usize = 32;

/// A server that runs. It ends when this is dropped.
pub(crate) struct DnsServer {
    _server: Server<Answerer>,
}

struct Answerer {
    names: Arc<ArcSwap<Names>>,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// A whole answer.
struct Reply {
    code: ResponseCode,
    is_ours: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl DnsServer {
    /// Listens at the service's addresses, which this machine must have.
    ///
    /// # Errors
    ///
    /// `Conflict`, with the address that cannot be listened at.
    pub(crate) async fn start(
        config: &DnsConfig,
        names: Arc<ArcSwap<Names>>,
    ) -> Result<Self, Error> {
        let mut server = Server::new(Answerer {
            names,
            forwarder: Forwarder::new(config.resolv_conf.clone(), config.addresses.clone()),
            turn: AtomicUsize::new(0),
        });
        for address in &config.addresses {
            let (udp, tcp) = listen(*address, config.port).await?;
            server.register_socket(udp);
            server.register_listener(tcp, IDLE, CONNECTION_BUFFER);
        }
        Ok(Self { _server: server })
    }
}

async fn listen(address: IpAddr, port: u16) -> Result<(UdpSocket, TcpListener), Error> {
    let at = SocketAddr::new(address, port);
    let failed = |error| Error::caused(ErrorKind::Conflict, format!("dns: listen at {at}"), error);
    let udp = UdpSocket::bind(at).await.map_err(failed)?;
    let tcp = TcpListener::bind(at).await.map_err(failed)?;
    Ok((udp, tcp))
}

#[async_trait::async_trait]
impl RequestHandler for Answerer {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let reply = match request.request_info() {
            Ok(info) if request.metadata.op_code == OpCode::Query => {
                let name: &Name = info.query.name();
                self.reply(name, info.query.query_type()).await
            }
            Ok(_) => refused(ResponseCode::NotImp),
            Err(_) => refused(ResponseCode::FormErr),
        };
        metadata.response_code = reply.code;
        metadata.authoritative = reply.is_ours;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        let edns = request.edns.as_ref().map(|theirs| {
            let mut ours = Edns::new();
            let payload = theirs.max_payload().clamp(512, PAYLOAD_BYTES);
            ours.set_max_payload(payload).set_version(0);
            ours
        });
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [Record; 0] = [];
        let response = builder.build(
            metadata,
            &reply.answers,
            &reply.authorities,
            &none,
            &reply.additionals,
        );
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "answer");
                let mut metadata =
                    Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            }
        }
    }
}

impl Answerer {
    async fn reply(&self, name: &Name, kind: RecordType) -> Reply {
        let text = name.to_ascii().to_ascii_lowercase();
        let names = self.names.load_full();
        match names.find(text.trim_end_matches('.'), kind) {
            Answer::Records(data, extra) => self.found(name, data, &extra),
            Answer::NoData => negative(&names, ResponseCode::NoError),
            Answer::NoName => negative(&names, ResponseCode::NXDomain),
            Answer::NotOurs => self.forward(name, kind).await,
            Answer::Alias(target) => self.follow(&names, name, &target, kind).await,
        }
    }

    fn found(&self, name: &Name, data: Vec<Data>, extra: &[(String, IpAddr)]) -> Reply {
        let mut answers: Vec<Record> = data
            .into_iter()
            .filter_map(|data| Some(Record::from_rdata(name.clone(), TTL, rdata(data)?)))
            .collect();
        // Clients take the first. Everyone's first should not be the same.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = answers.len().max(1);
        answers.rotate_left(turn % count);
        let additionals = extra.iter().filter_map(|(name, address)| {
            let data = rdata(Data::Address(*address))?;
            Some(Record::from_rdata(absolute(name)?, TTL, data))
        });
        Reply {
            code: ResponseCode::NoError,
            is_ours: true,
            answers,
            authorities: Vec::new(),
            additionals: additionals.collect(),
        }
    }

    /// The alias, and what it stands for: most clients do not ask a second time.
    async fn follow(&self, names: &Names, name: &Name, target: &str, kind: RecordType) -> Reply {
        let Some(target_name) = absolute(target) else {
            return refused(ResponseCode::ServFail);
        };
        let alias = RData::CNAME(CNAME(target_name.clone()));
        let alias = Record::from_rdata(name.clone(), TTL, alias);
        let mut reply = match names.find(target, kind) {
            Answer::Records(data, extra) => self.found(&target_name, data, &extra),
            Answer::NotOurs if kind != RecordType::CNAME => self.forward(&target_name, kind).await,
            // One alias that names another of ours: the client goes on itself.
            _ => refused(ResponseCode::NoError),
        };
        reply.answers.insert(0, alias);
        // The alias exists, whatever became of its target.
        reply.code = ResponseCode::NoError;
        reply.is_ours = true;
        reply
    }

    async fn forward(&self, name: &Name, kind: RecordType) -> Reply {
        let forwarded = self.forwarder.ask(name, kind).await;
        Reply {
            code: forwarded.code,
            is_ours: false,
            answers: forwarded.answers,
            authorities: forwarded.authorities,
            additionals: Vec::new(),
        }
    }
}

fn refused(code: ResponseCode) -> Reply {
    Reply {
        code,
        is_ours: false,
        answers: Vec::new(),
        authorities: Vec::new(),
        additionals: Vec::new(),
    }
}

/// The SOA record says how long nothing may be taken for nothing (RFC 2308).
fn negative(names: &Names, code: ResponseCode) -> Reply {
    let soa = || {
        let zone = absolute(names.domain())?;
        let server = absolute(&format!("ns.dns.{}", names.domain()))?;
        let mailbox = absolute(&format!("hostmaster.{}", names.domain()))?;
        let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86_400, TTL);
        Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
    };
    Reply {
        code,
        is_ours: true,
        answers: Vec::new(),
        authorities: soa().into_iter().collect(),
        additionals: Vec::new(),
    }
}

fn rdata(data: Data) -> Option<RData> {
    Some(match data {
        Data::Address(IpAddr::V4(v4)) => RData::A(A(v4)),
        Data::Address(IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
        Data::Name(name) => RData::PTR(PTR(absolute(&name)?)),
        Data::Service(port, target) => RData::SRV(SRV::new(0, 100, port, absolute(&target)?)),
        Data::Text(text) => RData::TXT(TXT::new(vec![text])),
    })
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}
