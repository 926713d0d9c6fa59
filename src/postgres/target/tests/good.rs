//! Texts that can be read, and what each says.

use super::super::resolve::LOCAL;
use super::*;

/// What is said of a target without a word about hosts is `LOCAL` in these.
const GOOD: &[(&str, &str)] = &[
    // The parts of a URL.
    ("postgresql://", "@LOCAL/"),
    ("postgres://", "@LOCAL/"),
    ("postgresql://h", "@h:5432/"),
    ("postgresql://h/", "@h:5432/"),
    ("postgresql://h/d", "@h:5432/d"),
    ("postgresql://h:6432/d", "@h:6432/d"),
    ("postgresql://h:/d", "@h:5432/d"),
    ("postgresql://:6432/d", "@SOCKET:6432/d"),
    ("postgresql:///d", "@LOCAL/d"),
    ("postgresql://u@h", "u@h:5432/"),
    ("postgresql://u:p@h:1/d", "u:p@h:1/d"),
    ("postgresql://u:p@/d", "u:p@LOCAL/d"),
    ("postgresql://u:@h/d", "u@h:5432/d"),
    ("postgresql://:p@h/d", ":p@h:5432/d"),
    ("postgresql://@h/d", "@h:5432/d"),
    ("postgresql+psycopg2://u:p@h:1/d", "u:p@h:1/d"),
    ("postgresql+psycopg://u:p@h:1/d", "u:p@h:1/d"),
    ("  postgresql://u:p@h:1/d\n", "u:p@h:1/d"),
    ("postgresql://u:p:q@h/d", "u:p:q@h:5432/d"),
    ("postgresql://u:p?ss@h/d", "u:p?ss@h:5432/d"),
    ("postgresql://u:p?ss=word@h/d", "u:p?ss=word@h:5432/d"),
    ("postgresql://u:p#q@h/d", "u:p#q@h:5432/d"),
    ("postgresql://u:p+q@h/d", "u:p+q@h:5432/d"),
    ("postgresql://h/a/b", "@h:5432/a/b"),
    // Percent-encoding.
    (
        "postgresql://%75:%70%3a%40%2F%3F@%68/%64",
        "u:p:@/?@h:5432/d",
    ),
    ("postgresql://u:%ff%FE@h/d", r"u:\xff\xfe@h:5432/d"),
    ("postgresql://u:%25@h/d", "u:%@h:5432/d"),
    ("postgresql://h:%35433/d", "@h:5433/d"),
    ("postgresql://h/d?%75ser=%75", "u@h:5432/d"),
    ("postgresql://h/d%20e", "@h:5432/d e"),
    ("postgresql://h/d%40e", "@h:5432/d@e"),
    ("postgresql://ü@hß/%C3%A4", "ü@hß:5432/ä"),
    // Several hosts.
    ("postgresql://h1:1,h2:2/d", "@h1:1,h2:2/d"),
    ("postgresql://h1,h2/d", "@h1:5432,h2:5432/d"),
    ("postgresql://h1,h2:2/d", "@h1:5432,h2:2/d"),
    ("postgresql://h1:1,h2/d", "@h1:1,h2:5432/d"),
    ("postgresql://h1,h2/d?port=7", "@h1:7,h2:7/d"),
    ("postgresql://h1,/d", "@h1:5432,LOCAL/d"),
    ("postgresql://h1%2Ch2/d", "@h1:5432,h2:5432/d"),
    (
        "postgresql://u:p@[::1]:1,h,[fe80::1]/d",
        "u:p@[::1]:1,h:5432,[fe80::1]:5432/d",
    ),
    ("postgresql://[::1]", "@[::1]:5432/"),
    ("postgresql://[::1]?user=u", "u@[::1]:5432/"),
    ("postgresql://127.0.0.1:1", "@127.0.0.1:1/"),
    // Sockets.
    ("postgresql://%2Fvar%2Frun/d", "@/var/run:5432/d"),
    ("postgresql://u@%2Frun:1/d", "u@/run:1/d"),
    ("postgresql:///d?host=/run&port=1", "@/run:1/d"),
    ("postgresql:///d?host=/a,/b", "@/a:5432,/b:5432/d"),
    ("host='/a b'", "@/a b:5432/"),
    // Parameters.
    (
        "postgresql://h?user=u&password=p&dbname=d&port=1",
        "u:p@h:1/d",
    ),
    (
        "postgresql://u:p@h/d?host=k&user=v&password=q&dbname=e",
        "v:q@k:5432/e",
    ),
    ("postgresql://h/d?host=", "@LOCAL/d"),
    ("postgresql://h/d?", "@h:5432/d"),
    ("postgresql://h/d?user=u&", "u@h:5432/d"),
    ("postgresql://h/d?user=a&user=b", "b@h:5432/d"),
    (
        "postgresql://u:p@h/d?options=-c%20a%3Db",
        "u:p@h:5432/d options=-c a=b",
    ),
    ("postgresql://h/d?application_name=n", "@h:5432/d name=n"),
    (
        "postgresql://h/d?fallback_application_name=n",
        "@h:5432/d name=n",
    ),
    (
        "postgresql://h/d?application_name=a&fallback_application_name=n",
        "@h:5432/d name=a",
    ),
    ("postgresql://h/d?hostaddr=::1", "@h:5432(::1)/d"),
    ("postgresql://h/d?connect_timeout=3", "@h:5432/d connect=3s"),
    ("postgresql://h/d?connect_timeout=1", "@h:5432/d connect=1s"),
    (
        "postgresql://h/d?connect_timeout=0",
        "@h:5432/d connect=no limit",
    ),
    (
        "postgresql://h/d?connect_timeout=-1",
        "@h:5432/d connect=no limit",
    ),
    (
        "postgresql://h/d?tcp_user_timeout=1500",
        "@h:5432/d unacknowledged=1.5s",
    ),
    (
        "postgresql://h/d?tcp_user_timeout=0",
        "@h:5432/d unacknowledged=-",
    ),
    ("postgresql://h/d?keepalives=0", "@h:5432/d keepalives=off"),
    (
        "postgresql://h/d?keepalives=1",
        "@h:5432/d keepalives=-/-/None",
    ),
    (
        "postgresql://h/d?keepalives_idle=60",
        "@h:5432/d keepalives=60s/-/None",
    ),
    (
        "postgresql://h/d?keepalives_interval=5&keepalives_count=4",
        "@h:5432/d keepalives=-/5s/Some(4)",
    ),
    (
        "postgresql://h/d?keepalives_retries=4",
        "@h:5432/d keepalives=-/-/Some(4)",
    ),
    (
        "postgresql://h/d?keepalives_idle=0",
        "@h:5432/d keepalives=-/-/None",
    ),
    ("postgresql://h/d?target_session_attrs=any", "@h:5432/d"),
    (
        "postgresql://h/d?target_session_attrs=read-write",
        "@h:5432/d session=ReadWrite",
    ),
    (
        "postgresql://h/d?target_session_attrs=read-only",
        "@h:5432/d session=ReadOnly",
    ),
    (
        "postgresql://h/d?target_session_attrs=primary",
        "@h:5432/d session=Primary",
    ),
    (
        "postgresql://h/d?target_session_attrs=standby",
        "@h:5432/d session=Standby",
    ),
    (
        "postgresql://h/d?target_session_attrs=prefer-standby",
        "@h:5432/d session=PreferStandby",
    ),
    (
        "postgresql://h/d?load_balance_hosts=random",
        "@h:5432/d balance=true",
    ),
    ("postgresql://h/d?load_balance_hosts=disable", "@h:5432/d"),
    ("postgresql://h/d?client_encoding=UTF-8", "@h:5432/d"),
    ("postgresql://h/d?client_encoding=auto", "@h:5432/d"),
    (
        "postgresql://h/d?gssencmode=disable&sslcompression=0&sslsni=1",
        "@h:5432/d",
    ),
    (
        "postgresql://h/d?gssencmode=prefer&replication=false",
        "@h:5432/d",
    ),
    // TLS.
    ("postgresql://h/d?ssl=true", "@h:5432/d tls=Some(Require)"),
    (
        "postgresql://h/d?sslmode=disable",
        "@h:5432/d tls=Some(Disable)",
    ),
    (
        "postgresql://h/d?sslmode=allow",
        "@h:5432/d tls=Some(Prefer)",
    ),
    (
        "postgresql://h/d?sslmode=prefer",
        "@h:5432/d tls=Some(Prefer)",
    ),
    (
        "postgresql://h/d?sslmode=require",
        "@h:5432/d tls=Some(Require)",
    ),
    (
        "postgresql://h/d?sslmode=verify-ca&sslrootcert=r",
        "@h:5432/d tls=Some(VerifyCa) root=r",
    ),
    (
        "postgresql://h/d?sslmode=verify-full",
        "@h:5432/d tls=Some(VerifyFull)",
    ),
    (
        "postgresql://h/d?sslmode=disable&ssl=true",
        "@h:5432/d tls=Some(Require)",
    ),
    (
        "postgresql://h/d?sslrootcert=/r.pem",
        "@h:5432/d root=/r.pem",
    ),
    (
        "postgresql://h/d?sslmode=require&sslrootcert=r",
        "@h:5432/d tls=Some(VerifyCa) root=r",
    ),
    (
        "postgresql://h/d?sslmode=verify-full&sslrootcert=r",
        "@h:5432/d tls=Some(VerifyFull) root=r",
    ),
    (
        "postgresql://h/d?sslrootcert=system",
        "@h:5432/d tls=Some(VerifyFull) root=system",
    ),
    (
        "postgresql://h/d?sslmode=require&sslcert=c&sslkey=k",
        "@h:5432/d tls=Some(Require) cert=c key=k",
    ),
    (
        "postgresql://h/d?sslmode=require&sslnegotiation=direct",
        "@h:5432/d tls=Some(Require) negotiation=Direct",
    ),
    ("postgresql://h/d?sslnegotiation=postgres", "@h:5432/d"),
    (
        "postgresql://h/d?ssl_min_protocol_version=TLSv1.3",
        "@h:5432/d at least=V1_3",
    ),
    (
        "postgresql://h/d?ssl_min_protocol_version=TLSv1.2",
        "@h:5432/d",
    ),
    (
        "postgresql://h/d?channel_binding=require",
        "@h:5432/d binding=Require",
    ),
    (
        "postgresql://h/d?channel_binding=disable",
        "@h:5432/d binding=Disable",
    ),
    (
        "postgresql://h/d?channel_binding=disable&sslmode=disable",
        "@h:5432/d binding=Disable tls=Some(Disable)",
    ),
    // Keys and values.
    ("user=u", "u@LOCAL/"),
    ("host=h port=1 user=u password=p dbname=d", "u:p@h:1/d"),
    ("  host = h\tuser\n=\r\nu  ", "u@h:5432/"),
    ("host=h password='a b'", ":a b@h:5432/"),
    (
        r"host=h password='it\'s \\ here'",
        r":it\'s \\ here@h:5432/",
    ),
    (r"host=h password=a\ b\'c\\d", r":a b\'c\\d@h:5432/"),
    ("host=h password=it's", r":it\'s@h:5432/"),
    ("host=h password=a=b", ":a=b@h:5432/"),
    ("host=h password='' user=''", "@h:5432/"),
    ("host=h password= user=u", ":user=u@h:5432/"),
    ("host='h'user='u'", "u@h:5432/"),
    (r"host=h password=a\", ":a@h:5432/"),
    ("host=h password=postgresql://x", ":postgresql://x@h:5432/"),
    ("host=h password=%41", ":%41@h:5432/"),
    ("host=h user=a user=b", "b@h:5432/"),
    ("host=a,b port=1,2", "@a:1,b:2/"),
    ("host=a,b port=1", "@a:1,b:1/"),
    ("host=a,b port=,2", "@a:5432,b:2/"),
    ("host=a,,b", "@a:5432,LOCAL,b:5432/"),
    ("host=::1", "@[::1]:5432/"),
    ("host=a,b hostaddr=10.0.0.1,", "@a:5432(10.0.0.1),b:5432/"),
    ("hostaddr=10.0.0.1,::1 port=1,2", "@10.0.0.1:1,[::1]:2/"),
    ("host=h port='' ", "@h:5432/"),
    ("host=h port=' 7 '", "@h:7/"),
    ("host=h connect_timeout=' 7 '", "@h:5432/ connect=7s"),
    ("port=7", "@SOCKET:7/"),
];

#[test]
fn a_text_means_what_libpq_takes_it_for() {
    let local = format!("{LOCAL}:5432");
    let mut wrong = Vec::new();
    for (url, means) in GOOD {
        let means = means.replace("LOCAL", &local).replace("SOCKET", LOCAL);
        match parse(url) {
            Ok(target) if say(&target) == means => {}
            Ok(target) => wrong.push(format!("{url:?}: {}, not {means}", say(&target))),
            Err(error) => wrong.push(format!("{url:?}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_driver_is_told_everything() {
    use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};

    let url = "postgresql://u:p@a:1,[::2]:2/d?hostaddr=10.0.0.1,&options=-cx%3Dy&application_name=n\
               &keepalives_idle=4&keepalives_interval=5&keepalives_count=6&tcp_user_timeout=700\
               &sslmode=verify-full&sslnegotiation=direct&channel_binding=require\
               &target_session_attrs=primary&connect_timeout=9";
    let target = parse(url).expect("a URL");
    let configs = target.configs();
    assert_eq!(configs.len(), 2);
    let [first, second] = configs.as_slice() else {
        panic!("two hosts");
    };
    assert_eq!(first.get_hosts(), [Host::Tcp("a".into())]);
    assert_eq!(first.get_hostaddrs().len(), 1);
    assert_eq!(first.get_ports(), [1]);
    assert_eq!(second.get_hosts(), [Host::Tcp("::2".into())]);
    assert_eq!(second.get_hostaddrs().len(), 0);
    assert_eq!(second.get_ports(), [2]);
    for config in &configs {
        assert_eq!(config.get_user(), Some("u"));
        assert_eq!(config.get_password(), Some(b"p".as_slice()));
        assert_eq!(config.get_dbname(), Some("d"));
        assert_eq!(config.get_options(), Some("-cx=y"));
        assert_eq!(config.get_application_name(), Some("n"));
        assert!(config.get_keepalives());
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(4));
        assert_eq!(
            config.get_keepalives_interval(),
            Some(Duration::from_secs(5))
        );
        assert_eq!(config.get_keepalives_retries(), Some(6));
        let limit = Duration::from_millis(700);
        assert_eq!(config.get_tcp_user_timeout(), Some(&limit));
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
        assert_eq!(config.get_ssl_negotiation(), SslNegotiation::Direct);
        assert_eq!(config.get_channel_binding(), ChannelBinding::Require);
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
        assert_eq!(config.get_connect_timeout(), None);
    }
}

/// Whatever is said about TLS, the connector sees to it; the driver must not try by itself.
#[test]
fn the_driver_leaves_tls_to_the_connector() {
    use tokio_postgres::config::{Host, SslMode, SslNegotiation};

    for more in ["sslmode=disable", "sslmode=prefer", "sslmode=require", ""] {
        for (at, name) in [
            ("host=h", "h"),
            ("hostaddr=10.0.0.1", "10.0.0.1"),
            ("host=h hostaddr=10.0.0.1", "h"),
            ("host=/run hostaddr=10.0.0.1", "10.0.0.1"),
        ] {
            let target = parse(&format!("{at} {more}")).expect("pairs");
            let config = target.configs().remove(0);
            assert_eq!(config.get_hosts(), [Host::Tcp(name.into())]);
            assert_eq!(config.get_ssl_mode(), SslMode::Require, "{at} {more}");
            assert_eq!(config.get_ssl_negotiation(), SslNegotiation::Direct);
            assert_eq!(target.distant(), [name]);
        }
        let config = parse(&format!("host=/run {more}"))
            .expect("pairs")
            .configs()
            .remove(0);
        assert_eq!(config.get_ssl_mode(), SslMode::Disable, "{more}");
    }
}

#[test]
fn only_what_leaves_this_machine_is_distant() {
    for local in [
        "",
        "host=/run",
        "host=localhost",
        "host=LocalHost",
        "host=127.0.0.1",
        "host=127.9.9.9",
        "host=::1",
        "host=::ffff:127.0.0.1",
        "hostaddr=127.0.0.1",
        "host=db.example.com hostaddr=127.0.0.1",
    ] {
        let target = parse(&format!("user=u {local}")).expect("pairs");
        assert!(target.distant().is_empty(), "{local}");
        assert_eq!(target.tls.mode(false), SslMode::Prefer);
    }
    for distant in [
        "db",
        "10.0.0.1",
        "localhost.example.com",
        "128.0.0.1",
        "0.0.0.0",
        "::2",
    ] {
        let target = parse(&format!("host=/run,{distant},localhost")).expect("pairs");
        assert_eq!(target.distant(), [distant]);
        let mode = match cfg!(feature = "tls") {
            true => SslMode::Require,
            false => SslMode::Prefer,
        };
        assert_eq!(target.tls.mode(true), mode);
    }
    let target = parse("host=localhost hostaddr=10.0.0.1").expect("pairs");
    assert_eq!(target.distant(), ["localhost"]);
}

#[test]
fn a_vanished_server_is_noticed_unless_the_url_says_otherwise() {
    let config = |url| parse(url).expect("a URL").configs().remove(0);
    let own = config("postgresql://keepalives:keepalives@localhost/keepalives");
    assert_eq!(own.get_keepalives_idle(), Duration::from_secs(10));
    assert_eq!(own.get_keepalives_interval(), Some(Duration::from_secs(3)));
    assert_eq!(own.get_keepalives_retries(), Some(3));
    let five = Duration::from_secs(5);
    assert_eq!(own.get_tcp_user_timeout(), Some(&five));
    let none = config("postgresql://h?keepalives=0&tcp_user_timeout=0");
    assert!(!none.get_keepalives());
    assert_eq!(none.get_tcp_user_timeout(), None);
}
