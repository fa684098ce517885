use super::super::address::StoreAddress;
use super::super::check;

/// Asserts that each address is rejected with this text, without its secrets, and that all that the text says to
/// write is accepted.
fn assert_translated(translations: &[(&str, &str)]) {
    for (url, cure) in translations {
        let error = StoreAddress::parse(url).unwrap_err();
        assert!(error.contains(cure) && !error.contains("hush"), "{url}: {error}");
        assert_accepted(url, &error);
    }
}

/// The check of a key's value.
type Check = fn(&str) -> Result<(), String>;

/// Asserts that the addresses of stores in a message are accepted, and the values of keys.
fn assert_accepted(url: &str, message: &str) {
    let words = message.split(' ').map(|word| word.trim_end_matches([',', ';', ':']));
    let places = words.filter(|word| ["s3://", "gs://", "az://", "file://"].iter().any(|form| word.starts_with(form)));
    let places: Vec<_> = places.collect();
    assert!(!places.is_empty(), "{url}: {message}");
    for place in places {
        assert!(StoreAddress::parse(place).is_ok(), "{url}: {place} is not accepted, from: {message}");
    }

    let checks: [(&str, Check); 3] =
        [("account", check::account), ("endpoint_url", check::endpoint), ("region", check::region)];
    for (key, check) in checks {
        let Some((_, value)) = message.split_once(&format!("`{key}` set to \"")) else { continue };
        let value = value.split('"').next().unwrap();
        assert_eq!(check(value), Ok(()), "{url}: {value}, from: {message}");
    }
}

#[test]
fn missing_slashes_are_added() {
    assert_translated(&[
        ("az:/models/a", "must be az://models/a"),
        ("az:models/a", "must be az://models/a"),
        ("GS:b/a", "must be gs://b/a"),
        ("s3:b", "must be s3://b"),
        ("file:/srv/files", "must be file:///srv/files"),
        ("az:models&sig=hush", "must be az://container/prefix"),
    ]);
    let upper = check::endpoint("HTTP://127.0.0.1:10000/acct").unwrap_err();
    assert_eq!(upper, "must begin with http:// or https://, in lower case, and name a host");
}

#[test]
fn addresses_of_azure_are_translated() {
    let sas = "in a file that `sas_token_file` names";
    let of_emulator = "must be az://models/a with `account` set to \"devstoreaccount1\" and `endpoint_url` set to \
                       \"http://127.0.0.1:10000/devstoreaccount1\"";
    assert_translated(&[
        (
            "https://acct.blob.core.windows.net/models/a?sv=2023-11-03&sig=hush",
            "must be az://models/a with `account` set to \"acct\", and the part after the question mark in a file that \
             `sas_token_file` names",
        ),
        ("https://ACCT.blob.core.windows.net/models", "must be az://models with `account` set to \"acct\""),
        ("HTTPS://acct.blob.core.windows.net:443/models", "must be az://models with `account` set to \"acct\""),
        ("https://acct.dfs.core.windows.net", "must be az://container/prefix with `account` set to \"acct\""),
        (
            "https://acct.blob.core.chinacloudapi.cn/models?sv=1&sig=hush",
            "must be az://models with `account` set to \"acct\" and `endpoint_url` set to \
             \"https://acct.blob.core.chinacloudapi.cn\", and the part after the question mark",
        ),
        (
            "https://acct.dfs.core.usgovcloudapi.net/models",
            "must be az://models with `account` set to \"acct\" and `endpoint_url` set to \
             \"https://acct.blob.core.usgovcloudapi.net\"",
        ),
        ("https://acct.blob.core.cloudapi.de", "`endpoint_url` set to \"https://acct.blob.core.cloudapi.de\""),
        ("https://acct.z01.blob.storage.azure.net/c", "set to \"https://acct.z01.blob.storage.azure.net\""),
        (
            "https://acct-secondary.blob.core.windows.net/c",
            "`account` set to \"acct\" and `endpoint_url` set to \"https://acct-secondary.blob.core.windows.net\"",
        ),
        (
            "https://acct.privatelink.blob.core.windows.net/c",
            "`account` set to \"acct\" and `endpoint_url` set to \"https://acct.privatelink.blob.core.windows.net\"",
        ),
        ("https://evilcore.windows.net/c?sig=hush", "belongs to `endpoint_url`"),
        ("https://acct.blob.evilcore.windows.net/c", "belongs to `endpoint_url`"),
        ("https://acct.queue.core.windows.net/c", "belongs to `endpoint_url`"),
        ("http://127.0.0.1:10000/devstoreaccount1/models/a", of_emulator),
        ("http://127.0.0.1:10000/devstoreaccount1", "must be az://container/prefix with `account` set to"),
        ("http://azurite:10000/devstoreaccount1/c?sig=hush", sas),
        ("abfss://models@acct.dfs.core.windows.net/a", "must be az://models/a with `account` set to \"acct\""),
        ("wasbs://models@acct.blob.core.windows.net/a?sv=1&sig=hush", sas),
        ("abfs://models/a", "must be az://models/a for Azure Blob Storage, with the account's name in `account`"),
        ("azure://models?sig=hush", "must be az://models for Azure"),
        ("wasbs://me:hush@acct.blob.core.windows.net/a", "must be az://container/prefix for Azure"),
        ("adl://acct.azuredatalakestore.net", "must be az://container/prefix for Azure"),
        ("az://models@acct.dfs.core.windows.net/a", "must be az://models/a with `account` set to \"acct\""),
        (
            "az://hush@acct/a",
            "must be az://container/a with `account` set to \"acct\", and the part before the @ in place of \"container\"",
        ),
        ("abfss://hush@acct/a", "must be az://container/a with `account` set to \"acct\", and the part before the @"),
        ("wasbs://hush@acct/?sv=1&sig=hush", "the part after the question mark in a file that"),
        ("az://hush@my-models/a", "must be az://my-models/a with the account's name in `account`, not before an @"),
        ("az://me:hush@models", "must not contain a user and password"),
        ("AZ://models/a", "must be az://models/a, with the scheme in lower case"),
        ("Az://me:hush@models", "must be az://container/prefix, with the scheme in lower case"),
        ("https://portal.azure.com/#view/x", "is a page of Azure's portal: must be az://container/prefix"),
        ("az://models/a?sv=1&sig=hush", "must be az://models/a, and the part after the question mark in a file that"),
        ("az://acct.blob.core.windows.net/models/a", "must be az://models/a with `account` set to \"acct\""),
        ("az://ACCT.dfs.core.windows.net:443", "must be az://container/prefix with `account` set to \"acct\""),
        ("az://acct.blob.core.windows.net/models?sv=1&sig=hush", "must be az://models with `account` set to"),
        ("azure://acct.blob.core.windows.net/models/a", "must be az://models/a with `account` set to \"acct\""),
        ("acct.blob.core.windows.net/models", "must be az://models with `account` set to \"acct\""),
        ("az://127.0.0.1:10000/devstoreaccount1/models/a", of_emulator),
        ("az://127.0.0.1/models", "must be az://models, and the address of the server belongs to `endpoint_url`"),
        ("az://Models/A", "must be az://models/A, since the names of containers are in lower case"),
    ]);
}

#[test]
fn addresses_of_google_are_translated() {
    assert_translated(&[
        ("https://storage.googleapis.com/models/a/", "must be gs://models/a"),
        ("https://storage.googleapis.com/", "must be gs://bucket/prefix"),
        ("https://models.storage.googleapis.com/a", "must be gs://models/a"),
        ("https://models.example.com.storage.googleapis.com", "must be gs://models.example.com"),
        ("https://storage.googleapis.com/storage/v1/b/models/o/a%2Fb?alt=media", "must be gs://models/a/b"),
        ("https://storage.googleapis.com/storage/v1/b/models", "must be gs://models"),
        ("https://storage.googleapis.com/download/storage/v1/b/models/o/a", "must be gs://models/a"),
        ("https://www.googleapis.com/storage/v1/b/models/o", "must be gs://models"),
        ("https://storage.cloud.google.com/models/a?authuser=1", "must be gs://models/a"),
        ("https://console.cloud.google.com/storage/browser/models/a;tab=objects?project=p", "must be gs://models/a"),
        ("https://console.cloud.google.com/storage/browser/_details/models/a", "must be gs://models/a"),
        ("https://console.cloud.google.com/storage", "must be gs://bucket/prefix"),
        ("https://firebasestorage.googleapis.com/v0/b/models/o/a%2Fb?token=hush", "must be gs://models/a/b"),
        (
            "http://127.0.0.1:4443/storage/v1/b/models/o",
            "must be gs://models with `endpoint_url` set to \"http://127.0.0.1:4443\"",
        ),
        ("gs://storage.googleapis.com/models/a", "must be gs://models/a"),
        ("gs://Storage.GoogleAPIs.com", "must be gs://bucket/prefix"),
        ("gs://models.storage.googleapis.com/a", "must be gs://models/a"),
        ("gs://console.cloud.google.com/storage/browser/models", "must be gs://models"),
        ("storage.googleapis.com/models/a", "must be gs://models/a"),
        ("gs://localhost:4443/models/a", "must be gs://models/a, and the address of the server belongs to"),
        ("gcs://models/a", "must be gs://models/a for Google Cloud Storage"),
        ("GS://models/a", "must be gs://models/a, with the scheme in lower case"),
    ]);
}

#[test]
fn addresses_of_s3_are_translated() {
    assert_translated(&[
        ("https://models.s3.amazonaws.com/a", "must be s3://models/a"),
        ("https://models.s3.eu-west-1.amazonaws.com/a", "s3://models/a with `region` set to \"eu-west-1\""),
        ("https://a.b.s3-eu-west-1.amazonaws.com", "s3://a.b with `region` set to \"eu-west-1\""),
        ("https://s3.eu-west-1.amazonaws.com/models/a", "s3://models/a with `region` set to \"eu-west-1\""),
        ("https://s3.amazonaws.com/models?X-Amz-Signature=hush", "must be s3://models"),
        ("https://eu-west-1.console.aws.amazon.com/s3/buckets/models?prefix=a/", "must be s3://models"),
        ("http://127.0.0.1:9000/b?sig=hush", "belongs to `endpoint_url`"),
        ("http://me:hush@127.0.0.1:9000/b", "belongs to `endpoint_url`"),
        ("s3a://models/a", "must be s3://models/a"),
        ("s3://s3.eu-west-1.amazonaws.com/models/a", "s3://models/a with `region` set to \"eu-west-1\""),
        ("s3://models.s3.amazonaws.com", "must be s3://models"),
        ("s3://minio:9000/models/a", "must be s3://models/a, and the address of the server belongs to"),
        ("s3://10.0.0.1/models", "must be s3://models, and the address of the server belongs to `endpoint_url`"),
        ("s3://[::1]:9000/models?sig=hush", "must be s3://models, and the address of the server belongs to"),
        ("S3://models/a", "must be s3://models/a, with the scheme in lower case"),
        ("FILE:///srv/files", "must be file:///srv/files, with the scheme in lower case"),
    ]);
}

#[test]
fn places_are_written_as_the_parser_reads_them() {
    let containers = [
        ("models", "az://models"),
        ("Models", "az://models"),
        ("%24web", "az://$web"),
        ("models%2Fa", "az://container/prefix"),
        ("ab", "az://container/prefix"),
        ("file.txt", "az://container/prefix"),
    ];
    let paths = [
        ("", ""),
        ("/a b", "/a%20b"),
        ("/a%20b/", "/a%20b"),
        ("/100%25", "/100%25"),
        ("/%zz", "/prefix"),
        ("/%ff", "/prefix"),
        ("/a%40b", "/a%40b"),
        ("/a%3Fb%23c", "/a%3Fb%23c"),
        ("/gr\u{fc}n,", "/gr\u{fc}n%2C"),
        ("/a%0Ab", "/a%0Ab"),
    ];
    let of_account = [
        "https://acct.blob.core.windows.net/",
        "https://acct.blob.core.chinacloudapi.cn/",
        "https://acct.dfs.core.usgovcloudapi.net/",
        "https://acct-secondary.blob.core.windows.net/",
        "http://127.0.0.1:10000/devstoreaccount1/",
        "http://[::1]:10000/devstoreaccount1-secondary/",
        "http://devstoreaccount1.blob.localhost:10000/",
        "AZ://",
        "azure://",
    ];
    for (container, place) in containers {
        for (path, written) in paths {
            for start in of_account {
                let url = format!("{start}{container}{path}?sv=1&sig=hush");
                let error = StoreAddress::parse(&url).unwrap_err();
                let expected = if place.ends_with("prefix") { place.to_owned() } else { format!("{place}{written}") };
                let found = error.split_once("must be ").unwrap().1.split(' ').next().unwrap().trim_end_matches(',');
                assert_eq!(found, expected, "{url}: {error}");
                assert!(!error.contains("hush"), "{url}: {error}");
                assert_accepted(&url, &error);
            }
        }
    }
}

#[test]
fn other_awkward_addresses_have_valid_translations() {
    for url in [
        "https://storage.googleapis.com/a b/c",
        "https://storage.googleapis.com/models/a b?x=1",
        "https://storage.googleapis.com/storage/v1/b/b c/o/x",
        "https://storage.googleapis.com/storage/v1/b/models/o/a%2520b%0A%40",
        "https://console.cloud.google.com/storage/browser/[x]",
        "http:///devstoreaccount1/c",
        "http:///storage/v1/b/models",
        "http://a b/devstoreaccount1/c",
        "https://my_acct.blob.core.windows.net/c",
        "https://a\"b.blob.core.windows.net/c",
        "https://acct.blob.core.windows.net:8443/c",
        "FILE://srv/files",
        "FILE:///srv/a b%zz",
        "S3://Bad Bucket/x",
        "S3://arn:aws:s3:eu-west-1:123456789012:accesspoint/point/p",
        "S3://arn:nonsense",
        "s3a://b c",
        "gcs://",
        "GS:///x",
        "az://Models/%zz?sig=hush",
        "az://MODELS/a b",
        "az://hush@models/%zz",
        "https://b.s3.dualstack.eu-west-1.amazonaws.com/%zz",
        "https://my-point-123456789012.s3-accesspoint.us-west-2.amazonaws.com/a",
    ] {
        let error = StoreAddress::parse(url).unwrap_err();
        assert!(!error.contains("hush"), "{url}: {error}");
        assert_accepted(url, &error);
    }
}

#[test]
fn servers_that_name_a_place_are_translated() {
    for (url, server, place) in [
        ("https://acct.blob.core.windows.net/models/a", "https://acct.blob.core.windows.net", "az://models/a"),
        ("https://ACCT.blob.core.windows.net:443/Models/", "https://acct.blob.core.windows.net", "az://models"),
        ("https://acct.dfs.core.usgovcloudapi.net/models", "https://acct.blob.core.usgovcloudapi.net", "az://models"),
        ("http://127.0.0.1:10000/devstoreaccount1/models", "http://127.0.0.1:10000/devstoreaccount1", "az://models"),
        ("https://storage.googleapis.com/models/a", "https://storage.googleapis.com", "gs://models/a"),
        ("https://models.storage.googleapis.com", "https://storage.googleapis.com", "gs://models"),
        (
            "https://storage.me-central2.rep.googleapis.com/models",
            "https://storage.me-central2.rep.googleapis.com",
            "gs://models",
        ),
        ("http://127.0.0.1:4443/storage/v1/b/models/o", "http://127.0.0.1:4443", "gs://models"),
        ("https://s3.eu-west-1.amazonaws.com/models", "https://s3.eu-west-1.amazonaws.com", "s3://models"),
        ("https://models.s3.eu-west-1.amazonaws.com/a", "https://s3.eu-west-1.amazonaws.com", "s3://models/a"),
    ] {
        let error = check::endpoint(url).unwrap_err();
        let what = if place.starts_with("az") { "container" } else { "bucket" };
        let cure = format!("must be {server:?}, since the {what} belongs to `url`, as in {place}");
        assert_eq!(error, format!("must not name a {what}: {cure}"), "{url}");
        assert_eq!(check::endpoint(server), Ok(()), "{url}");
        assert!(StoreAddress::parse(place).is_ok(), "{url}");
    }

    for (url, cure) in [
        ("https://acct.dfs.core.windows.net", "must be \"https://acct.blob.core.windows.net\", the account's address"),
        ("https://storage.googleapis.com/storage/v1/", "must be https://storage.googleapis.com alone"),
        ("https://eu-west-1.console.aws.amazon.com/s3/buckets/models", "is a page of AWS's console"),
    ] {
        let error = check::endpoint(url).unwrap_err();
        assert!(error.starts_with(cure), "{url}: {error}");
    }
}

#[test]
fn addresses_of_servers_are_accepted() {
    for url in [
        "http://minio:9000",
        "https://proxy.example.com/s3",
        "https://proxy.example.com/s3/models/",
        "http://127.0.0.1:10000/devstoreaccount1",
        "http://127.0.0.1:10000/devstoreaccount1-secondary/",
        "https://acct.blob.core.windows.net/",
        "https://acct.z01.blob.storage.azure.net",
        "https://acct.privatelink.blob.core.windows.net",
        "https://acct-secondary.blob.core.windows.net",
        "https://storage.googleapis.com/",
        "https://commondatastorage.googleapis.com",
        "https://storage.europe-west3.rep.googleapis.com",
        "https://s3.dualstack.eu-west-1.amazonaws.com",
        "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
        "https://s3-accesspoint.us-west-2.amazonaws.com",
    ] {
        assert_eq!(check::endpoint(url), Ok(()), "{url}");
    }
}

#[test]
fn connection_strings_are_translated() {
    assert_translated(&[
        (
            "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=hush==;EndpointSuffix=core.windows.net",
            "is a connection string: must be az://container/prefix with `account` set to \"acct\", and its AccountKey \
             in a file that `account_key_file` names",
        ),
        (
            "AccountName=acct;AccountKey=hush==;EndpointSuffix=core.chinacloudapi.cn",
            "`account` set to \"acct\" and `endpoint_url` set to \"https://acct.blob.core.chinacloudapi.cn\", and",
        ),
        (
            "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=hush",
            "with `account` set to \"acct\", and its SharedAccessSignature in a file that `sas_token_file` names",
        ),
        (
            "UseDevelopmentStorage=true",
            "is a connection string of an emulator: must be az://container/prefix with `account` set to \
             \"devstoreaccount1\" and `endpoint_url` set to \"http://127.0.0.1:10000/devstoreaccount1\", and the \
             emulator's key in a file that `account_key_file` names",
        ),
        (
            "AccountName=devstoreaccount1;AccountKey=hush==;BlobEndpoint=http://azurite:10000/devstoreaccount1/;",
            "`account` set to \"devstoreaccount1\" and `endpoint_url` set to \"http://azurite:10000/devstoreaccount1\"",
        ),
        (
            "AccountName=acct;AccountKey=hush==;BlobEndpoint=https://blobs.example.com",
            "`account` set to \"acct\" and `endpoint_url` set to \"https://blobs.example.com\", and its AccountKey",
        ),
        (
            "AccountName=A b;AccountKey=hush",
            "must be az://container/prefix with the account's name in `account`, and its AccountKey in a file",
        ),
        (
            "BlobEndpoint=http://azurite:10000/devstoreaccount1;SharedAccessSignature=sv=1&sig=hush",
            "with the account's name in `account`, and its address in `endpoint_url`, and its SharedAccessSignature in",
        ),
        (
            "AccountName=acct;AccountKey=hush==;EndpointSuffix=local.azurestack.external",
            "with the account's name in `account`, and its address in `endpoint_url`, and its AccountKey in a file",
        ),
    ]);
}
