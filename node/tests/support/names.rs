//! A server of names on an address of this machine's own, which answers what the test says.

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Seconds that an answer may be kept.
const TTL: u32 = 1;
const PORT: u16 = 53;

/// What is known, by name and kind; names end with a dot.
#[derive(Default)]
pub struct Records(BTreeMap<(String, RecordType), Vec<RData>>);

impl Records {
    fn add(&mut self, name: &str, kind: RecordType, data: RData) {
        self.0.entry((name.to_owned(), kind)).or_default().push(data);
    }

    /// One of the addresses of a name.
    pub fn address(&mut self, name: &str, address: Ipv4Addr) {
        self.add(name, RecordType::A, RData::A(A(address)));
    }

    /// One of the places of a service.
    pub fn service(&mut self, name: &str, host: &str, port: u16) {
        let place = SRV::new(0, 0, port, Name::from_str(host).unwrap());
        self.add(name, RecordType::SRV, RData::SRV(place));
    }

    fn answer(&self, asked: &[u8]) -> Vec<u8> {
        let mut message = Message::from_vec(asked).unwrap();
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        let query = message.queries[0].clone();
        let name = query.name().to_ascii().to_lowercase();
        if !self.0.keys().any(|(known, _)| *known == name) {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        for data in self.0.get(&(name, query.query_type())).into_iter().flatten() {
            message.add_answer(Record::from_rdata(query.name().clone(), TTL, data.clone()));
        }
        message.to_vec().unwrap()
    }
}

/// The server; it ends with the value.
pub struct Names {
    address: Ipv4Addr,
    records: Arc<Mutex<Records>>,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Names {
    /// Answers on `address`, a loopback one, at the port of names.
    pub fn serve(address: Ipv4Addr, records: Records) -> Self {
        let socket = UdpSocket::bind((address, PORT)).unwrap();
        let (answered, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped) = (answered.clone(), stop.clone());
        let records = Arc::new(Mutex::new(records));
        let known = records.clone();
        let serving = std::thread::spawn(move || {
            let mut asked = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut asked).unwrap();
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Who asked may be gone already.
                drop(socket.send_to(&known.lock().unwrap().answer(&asked[..length]), from));
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, records, answered, stop, serving: Some(serving) }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// From now on no name is known.
    pub fn forget(&self) {
        self.records.lock().unwrap().0.clear();
    }

    /// How often somebody asked.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let wake = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        drop(wake.send_to(b"end", SocketAddr::from((self.address, PORT))));
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}
