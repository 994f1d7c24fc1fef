package agent

// HostConfig is what a host is to be, as JSON in the file that its kernel's argument
// nfshost names.
type HostConfig struct {
	Name    string
	Addr    string // with the prefix length
	Dir     string // the lab's own, which all hosts see
	Lease   int    // server: in seconds
	Source  string // client: what to mount; empty in the server
	Options string // client: mount options
	Point   string // client: where to mount; server: what to export
}
