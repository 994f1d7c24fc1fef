# The command in an image of nothing else: make image. For programs that run under it,
# take it from here:
#
#	COPY --from=hasp /hasp /hasp-etcd /usr/local/bin/
#
# By itself it is for what needs no other program: status, list, break, verify. For
# rediss:// and etcds:// mount a host's certificates at /etc/ssl/certs.
FROM scratch
COPY hasp hasp-etcd LICENSE /
ENTRYPOINT ["/hasp"]
