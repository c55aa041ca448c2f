package web_test

import (
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// patience is how long a test waits for background work.
const patience = 60 * time.Second

// eventually waits until done says so.
func (s *site) eventually(what string, done func() (bool, error)) {
	s.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ok, err := done()
		s.must(err)
		if ok {
			return
		}
	}
	s.Fatalf("%s does not come", what)
}

// revoke revokes a device, and returns its revocation once the first attempt at
// its proof is over.
func (s *site) revoke(id string) *enroll.Revocation {
	s.Helper()
	r, err := s.service.RevokeDevice(s.ctx, admin(), id, enroll.RevokeRequest{Reason: "keyCompromise", Comment: "found in a bin"})
	s.must(err)
	return s.proof(r.ID)
}

// proof returns a revocation once the first attempt at its proof is over.
func (s *site) proof(id string) (r *enroll.Revocation) {
	s.Helper()
	s.eventually("the proof", func() (_ bool, err error) {
		r, err = s.service.Revocation(s.ctx, id)
		return err == nil && r.State != enroll.RevocationRunning, err
	})
	return r
}

// register adds a device that is not enrolled.
func (s *site) register(id, group string, attributes map[string]string) {
	s.Helper()
	_, err := s.service.CreateDevice(s.ctx, admin(), enroll.NewDevice{ID: id, Group: group, Attributes: attributes})
	s.must(err)
}
