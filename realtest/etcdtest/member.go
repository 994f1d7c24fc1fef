package etcdtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

// memberEnv makes a test binary an etcd server instead of running its tests. A
// process of its own, because only a process can be killed as a machine is.
const memberEnv = "HASP_ETCDTEST_MEMBER"

// member is what the environment variable says, in JSON.
type member struct {
	Name, Dir    string
	Client, Peer string // addresses
	Cluster      string // initial cluster
	Join         bool   // an existing one
	Quota        int64
	AuthTokenTTL time.Duration
	Fsync        bool
	CertFile     string // serve clients with TLS
	KeyFile      string
}

func init() {
	text := os.Getenv(memberEnv)
	if text == "" {
		return
	}
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest: member:", err)
		os.Exit(2)
	}
	if err := m.run(); err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest: member:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run serves until standard input ends, which it does when the test's process
// does. It prints "ready", and answers the commands cut and mend.
func (m member) run() error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.Name, m.Dir
	cfg.LogLevel = "error"
	cfg.Logger = "zap"
	cfg.LogOutputs = []string{"stderr"}
	scheme := "http"
	if m.CertFile != "" {
		scheme = "https"
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = m.CertFile, m.KeyFile
	}
	client := url.URL{Scheme: scheme, Host: m.Client}
	peer := url.URL{Scheme: "http", Host: m.Peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = m.Cluster
	if m.Join {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	cfg.QuotaBackendBytes = m.Quota
	cfg.BcryptCost = 4 // the least: logins are not what tests are to wait for
	if m.AuthTokenTTL > 0 {
		cfg.AuthTokenTTL = uint(m.AuthTokenTTL / time.Second)
	}
	// A killed process loses nothing that it has written; only a machine does.
	cfg.UnsafeNoFsync = !m.Fsync
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	go func() {
		<-e.Server.ReadyNotify()
		fmt.Println("ready")
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch strings.TrimSpace(lines.Text()) {
		case "cut":
			eachPeer(e.Server, e.Server.CutPeer)
			fmt.Println("cut")
		case "mend":
			eachPeer(e.Server, e.Server.MendPeer)
			fmt.Println("mended")
		}
	}
	return lines.Err()
}

func eachPeer(s *etcdserver.EtcdServer, do func(types.ID)) {
	for _, m := range s.Cluster().Members() {
		if m.ID != s.MemberID() {
			do(m.ID)
		}
	}
}
