package cli

import (
	"strings"
	"testing"
)

func TestReportsNameHasNoSecret(t *testing.T) {
	for _, store := range []string{
		"redis://user:hunter2@h:6379/0",
		"redis://h:1,i:2/0?master_name=main&username=u&password=hunter2",
		"etcd://user:hunter2@h:2379/prefix",
	} {
		name, where, _, err := apart(store)
		if err != nil || where != store || strings.Contains(name, "hunter2") {
			t.Errorf("%s is called %q, error %v", store, name, err)
		}
	}
}
