"""The least of an S3 client: objects into a bucket and out of it, signed as the store asks for (AWS Signature Version 4)."""

import datetime
import hashlib
import hmac
import urllib.parse
import urllib.request
import xml.etree.ElementTree

REGION = "us-east-1"
LISTING = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Store:
    """A store at `http://ADDRESS`, with the pair of its key."""

    def __init__(self, address, key_id, secret):
        self.address, self.key_id, self.secret = address, key_id, secret

    def put(self, bucket, name, content):
        """Writes an object."""
        self._call("PUT", f"/{bucket}/{name}", content)

    def get(self, bucket, name):
        """Reads an object. Raises urllib's HTTPError where there is none."""
        return self._call("GET", f"/{bucket}/{name}")

    def names(self, bucket, prefix):
        """Names of the bucket's objects that begin with the prefix."""
        found, more = [], {}
        while True:
            query = {"list-type": "2", "prefix": prefix, **more}
            listing = xml.etree.ElementTree.fromstring(self._call("GET", f"/{bucket}", query=query))
            found += [entry.findtext(f"{LISTING}Key") for entry in listing.iter(f"{LISTING}Contents")]
            token = listing.findtext(f"{LISTING}NextContinuationToken")
            if not token:
                return found
            more = {"continuation-token": token}

    def _call(self, method, path, content=b"", query=None):
        now = datetime.datetime.now(datetime.UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        path = urllib.parse.quote(path)
        canonical_query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted((query or {}).items()))
        digest = hashlib.sha256(content).hexdigest()
        headers = {"host": self.address, "x-amz-content-sha256": digest, "x-amz-date": stamp}
        signed = ";".join(headers)
        canonical = "\n".join([method, path, canonical_query, *(f"{name}:{value}" for name, value in headers.items()), "", signed, digest])
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in (day, REGION, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={self.key_id}/{scope}, SignedHeaders={signed}, Signature={signature}"
        url = f"http://{self.address}{path}" + (f"?{canonical_query}" if canonical_query else "")
        request = urllib.request.Request(url, data=content if method == "PUT" else None, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


def _quoted(text):
    return urllib.parse.quote(text, safe="-_.~")
