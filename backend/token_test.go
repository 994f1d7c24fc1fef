package backend_test

import (
	"math"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

func TestNextToken(t *testing.T) {
	now := time.UnixMicro(1763862345123456)
	for _, tc := range []struct {
		last, floor uint64
		now         time.Time
		want        uint64 // 0: an error
	}{
		{0, 0, now, 1763862345123456},
		{1763862345123455, 0, now, 1763862345123456},
		{1763862345123456, 0, now, 1763862345123457}, // twice in a microsecond
		{5000000000000000, 0, now, 5000000000000001}, // a clock that was set back
		{0, 6000000000000000, now, 6000000000000001},
		{7, 9, time.UnixMicro(0), 10},
		{9, 7, time.UnixMicro(-5), 10}, // a clock before 1970
		{0, 0, time.Time{}, 1},         // no clock
		{math.MaxUint64 - 1, 0, now, math.MaxUint64},
		{0, math.MaxUint64 - 1, now, math.MaxUint64},
		{math.MaxUint64, 0, now, 0},
		{0, math.MaxUint64, now, 0},
	} {
		got, err := backend.NextToken(tc.last, tc.floor, tc.now)
		if got != tc.want || (err != nil) != (tc.want == 0) {
			t.Errorf("NextToken(%d, %d, %v) = %d, %v; want %d", tc.last, tc.floor, tc.now, got, err, tc.want)
		}
	}
}
